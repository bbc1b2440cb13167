"""The files of `torture.py`: for each, the commands that make it and what is right.

Commands are lines of bash. `FF` is ffmpeg; `S 25 2` are the arguments of a moving picture of 160x120 pixels
at 25 frames a second, 2 seconds long; `cut FILE PERCENT` writes the first part of a file to the next name;
`matrix IN OUT a b c d` writes a display matrix. What is right: the number of frames, which are ffmpeg's; or
words of the line that refuses the file. `(50, "note")`: ffmpeg's frames, and a note, since nothing in the
file says whether it is whole.
"""
# ruff: noqa: E501  (a command is a line)
import os
import struct
import subprocess
import sys
from multiprocessing.pool import ThreadPool
from pathlib import Path

PRELUDE = r"""
set -e
FF() { ffmpeg -v error -nostdin -y "$@"; }
S() { echo -f lavfi -i "testsrc2=s=${3:-160x120}:r=$1:d=$2"; }
X="-c:v libx264 -preset veryfast -pix_fmt yuv420p"
M2="-c:v mpeg2video -q:v 2"
cut() { head -c $(($(stat -c %s $1) * $2 / 100)) $1; }
matrix() { "$PYTHON" "$MAKER" matrix "$@"; }
"""

# Parts that several files are made of.
PARTS = {
    "base.mp4": "FF $(S 25 2) $X base.mp4",
    "long.mp4": "FF $(S 25 3) $X -g 50 long.mp4",
    "sound.mp4": "FF $(S 25 2) -f lavfi -i sine=d=2 $X -c:a aac sound.mp4",
    "w.mkv": "FF $(S 25 4) $X -g 25 w.mkv",
    "c.ts": "FF $(S 25 1) $X -output_ts_offset 1000 c.ts",
    "d.ts": "FF $(S 25 1) $X d.ts",
    "cover.png": "FF -f lavfi -i testsrc=s=120x120 -frames:v 1 cover.png",
    "static.ogv": "FF -f lavfi -i color=red:s=64x48:r=25:d=1 -c:v libtheora static.ogv",
}

CODECS = {
    "h264.mp4": (50, "FF $(S 25 2) $X h264.mp4"),
    "h264.mov": (50, "FF $(S 25 2) $X h264.mov"),
    "h264.mkv": (50, "FF $(S 25 2) $X h264.mkv"),
    "h264.flv": (50, "FF $(S 25 2) $X h264.flv"),
    "h264.ts": (50, "note", "FF $(S 25 2) $X h264.ts"),
    "h264.m2ts": (50, "note", "FF $(S 25 2) -f lavfi -i sine=d=2 $X -c:a ac3 -f mpegts -mpegts_m2ts_mode 1 h264.m2ts"),
    "h264.264": (50, "note", "FF $(S 25 2) $X h264.264"),
    "h264.avi": (50, "FF $(S 25 2) $X h264.avi"),
    "many_b.mp4": (50, "FF $(S 25 2) $X -bf 8 -b_strategy 0 many_b.mp4"),
    "hevc.mp4": (50, "FF $(S 25 2) -c:v libx265 -x265-params log-level=error -pix_fmt yuv420p hevc.mp4"),
    "vp8.webm": (50, "FF $(S 25 2) -c:v libvpx -b:v 1M vp8.webm"),
    "vp9.webm": (50, "FF $(S 25 2) -c:v libvpx-vp9 -deadline realtime -cpu-used 8 vp9.webm"),
    "av1.mkv": (50, "FF $(S 25 2) -c:v libaom-av1 -usage realtime -cpu-used 8 av1.mkv"),
    "mpeg4.avi": (50, "FF $(S 25 2) -c:v mpeg4 -q:v 3 mpeg4.avi"),
    "mpeg4_b.avi": (50, "FF $(S 25 2) -c:v mpeg4 -q:v 3 -bf 2 mpeg4_b.avi"),
    "xvid_sound.avi": (51, "FF $(S 25 2) -f lavfi -i sine=d=2 -c:v libxvid -bf 2 -q:v 3 -c:a mp2 xvid_sound.avi"),
    "msmpeg4.avi": (50, "FF $(S 25 2) -c:v msmpeg4v2 -q:v 3 msmpeg4.avi"),
    "mjpeg.avi": (50, "FF $(S 25 2) -c:v mjpeg -q:v 3 mjpeg.avi"),
    "mjpeg.mov": (50, "FF $(S 25 2) -c:v mjpeg -q:v 3 mjpeg.mov"),
    "cinepak.avi": (25, "FF $(S 25 1) -c:v cinepak cinepak.avi"),
    "huffyuv.avi": (50, "FF $(S 25 2) -c:v huffyuv huffyuv.avi"),
    "raw.avi": (50, "FF $(S 25 2) -c:v rawvideo -pix_fmt yuv420p raw.avi"),
    "big.avi": (50, "FF $(S 25 2 320x240) -c:v rawvideo -pix_fmt bgr24 big.avi"),
    "dv.avi": (25, "FF $(S 25 1 720x576) -c:v dvvideo -pix_fmt yuv420p dv.avi"),
    "dv.dv": (25, "note", "FF $(S 25 1 720x576) -c:v dvvideo -pix_fmt yuv420p dv.dv"),
    "mpeg1.mpg": (50, "note", "FF $(S 25 2) -c:v mpeg1video -q:v 2 mpeg1.mpg"),
    "mpeg2.mpg": (50, "note", "FF $(S 25 2) $M2 mpeg2.mpg"),
    "dvd.vob": (50, "note", "FF $(S 25 2) -f lavfi -i sine=d=2 $M2 -c:a ac3 -f vob dvd.vob"),
    "mpeg2.m2v": (50, "note", "FF $(S 25 2) $M2 mpeg2.m2v"),
    "wmv2.wmv": (50, "FF $(S 25 2) -c:v wmv2 -q:v 3 wmv2.wmv"),
    "sorenson.flv": (50, "FF $(S 25 2) -c:v flv -q:v 3 sorenson.flv"),
    "h263.3gp": (50, "FF $(S 25 2 176x144) -c:v h263 -q:v 3 h263.3gp"),
    "theora.ogv": (50, "FF $(S 25 2) -c:v libtheora -q:v 8 theora.ogv"),
    "prores.mov": (25, "FF $(S 25 1) -c:v prores_ks -pix_fmt yuv422p10le prores.mov"),
    "qtrle.mov": (25, "FF $(S 25 1) -c:v qtrle qtrle.mov"),
    "dnxhd.mxf": (10, "note", "FF $(S 25 0.4 1280x720) -c:v dnxhd -b:v 90M -pix_fmt yuv422p dnxhd.mxf"),
    "ffv1.mkv": (50, "FF $(S 25 2) -c:v ffv1 ffv1.mkv"),
    "picture.gif": (20, "note", "FF $(S 10 2) picture.gif"),
    "picture.apng": (20, "note", "FF $(S 10 2) picture.apng"),
    "raw.y4m": (25, "note", "FF $(S 25 1) -pix_fmt yuv420p raw.y4m"),
    "fragments.mp4": (50, "FF $(S 25 2) $X -g 10 -movflags frag_keyframe+empty_moov fragments.mp4"),
    "index_first.mp4": (50, "FF -i base.mp4 -c copy -movflags faststart index_first.mp4"),
}

RATES = {
    "ntsc.mp4": (60, "FF $(S 30000/1001 2) $X ntsc.mp4"),
    "fast.mp4": (120, "FF $(S 120 1) $X fast.mp4"),
    "slow.mp4": (4, "FF $(S 1 4) $X slow.mp4"),
    "vfr.mkv": (91, "FF $(S 30 3) -vf \"select='lt(n,30)+not(mod(n,4))'\" -vsync vfr $X vfr.mkv"),
    "vfr.mp4": (91, "FF $(S 30 3) -vf \"select='lt(n,30)+not(mod(n,4))'\" -vsync vfr $X vfr.mp4"),
    # A stamp 1e6 s behind the others is no time, for ffmpeg either.
    "nonsense_time.mkv": (25, "FF $(S 25 1) -vf \"setpts='if(eq(N,24),1e6/TB,PTS)'\" -vsync vfr $X nonsense_time.mkv"),
    "pause.mkv": (150, "FF $(S 25 6) -vf \"select='lt(n,10)+gt(n,139)'\" -vsync vfr $X pause.mkv"),
    "phone.mp4": (283, "FF $(S 120 2.35) -vf \"select='not(mod(n,4))*not(eq(n,8))+eq(n,9)+eq(n,22)'\" -vsync vfr $X -video_track_timescale 90000 phone.mp4"),
    "jitter.mkv": (50, "FF $(S 25 2) -vf \"setpts='PTS+0.004/TB*mod(N,3)'\" -vsync vfr $X jitter.mkv"),
}

TIMES = {
    "trim.mp4": (50, "FF -ss 1 -i long.mp4 -c copy trim.mp4"),
    "trim.mov": (50, "FF -ss 1 -i long.mp4 -c copy trim.mov"),
    "middle.mp4": (30, "FF -ss 1 -i long.mp4 -t 1 -c copy middle.mp4"),
    "late_video.mp4": (63, "FF -f lavfi -i sine=d=3 -itsoffset 0.5 $(S 25 2) -map 0 -map 1 $X -c:a aac late_video.mp4"),
    "late_video.mkv": (63, "FF -f lavfi -i sine=d=3 -itsoffset 0.5 $(S 25 2) -map 0 -map 1 $X -c:a mp2 late_video.mkv"),
    "late_alone.mkv": (50, "FF -itsoffset 3 $(S 25 2) $X late_alone.mkv"),
    "late.ts": (50, "note", "FF -f lavfi -i sine=d=3 -itsoffset 1 $(S 25 2 64x48) -map 0 -map 1 $M2 -c:a mp2 late.ts"),
    "late.mpg": (75, "note", "FF -f lavfi -i sine=d=3 -itsoffset 1 $(S 25 2 64x48) -map 0 -map 1 $M2 -c:a mp2 late.mpg"),
    "late.ogv": (75, "FF -itsoffset 1 $(S 25 2 64x48) -f lavfi -i sine=d=3 -map 0 -map 1 -c:v libtheora -c:a libvorbis late.ogv"),
    "drop3.avi": (50, "FF $(S 25 2 64x48) -vf \"select='not(between(n,10,12))'\" -vsync vfr -c:v mpeg4 drop3.avi"),
    "drop_many.avi": (99, "FF $(S 25 4) -f lavfi -i sine=d=4 -vf \"select='not(mod(n,5))'\" -vsync vfr -c:v mjpeg -c:a mp2 drop_many.avi"),
    "static.ogv": (35, ""),
    "static.mkv": (35, "FF -i static.ogv -c copy static.mkv"),
    "moving.ogv": (74, "FF $(S 25 3 64x48) -c:v libtheora moving.ogv"),
    "joined.ts": (100, "note", "FF $(S 25 2) $M2 one.ts; cat one.ts one.ts > joined.ts"),
    "joined.mpg": (100, "note", "FF $(S 25 2) $M2 one.mpg; cat one.mpg one.mpg > joined.mpg"),
    "joined.mts": (100, "note", "FF $(S 25 2) -f lavfi -i sine=d=2 $X -c:a aac -f mpegts one.mts; cat one.mts one.mts > joined.mts"),
    "jump_forth.ts": (50, "note", "cat d.ts c.ts > jump_forth.ts"),
    "jump_back.ts": (50, "note", "cat c.ts d.ts > jump_back.ts"),
    "jump_5s.ts": (173, "note", "FF $(S 25 1) $X -output_ts_offset 6 e.ts; cat d.ts e.ts > jump_5s.ts"),
    "wrap.ts": (50, "note", "FF $(S 25 2) $X -output_ts_offset 95442 wrap.ts"),
    "two_jumps.ts": (75, "note", "cat d.ts c.ts d.ts > two_jumps.ts"),
    "mid_gop.ts": (25, "note", "FF $(S 25 2) $M2 -g 25 m.ts; tail -c +$((188 * 40 + 1)) m.ts > mid_gop.ts"),
}

STREAMS = {
    "two.mp4": (25, "FF -f lavfi -i color=red:s=96x64:r=15:d=1 $(S 25 1) -map 0 -map 1 $X -disposition:v:0 0 -disposition:v:1 default two.mp4"),
    "default_first.mkv": (15, "FF -f lavfi -i color=red:s=96x64:r=15:d=1 $(S 25 1) -map 0 -map 1 $X default_first.mkv"),
    "two_programs.ts": (25, "note", "FF -f lavfi -i color=red:s=96x64:r=15:d=1 $(S 25 1) -map 0 -map 1 $X two_programs.ts"),
    "cover_first.mkv": (50, "FF -i cover.png -i base.mp4 -map 0 -map 1 -c copy -disposition:v:0 attached_pic cover_first.mkv"),
    "cover.mp4": (50, "FF -i base.mp4 -i cover.png -map 0 -map 1 -c copy -disposition:v:1 attached_pic cover.mp4"),
    "song.mp3": (1, "note", "FF -f lavfi -i sine=d=2 -i cover.png -map 0 -map 1 -c:a libmp3lame -c:v copy -disposition:v:0 attached_pic song.mp3"),
    "song.m4a": (1, "note", "FF -f lavfi -i sine=d=2 -i cover.png -map 0 -map 1 -c:a aac -c:v copy -disposition:v:0 attached_pic song.m4a"),
    "sound_only.mp4": ("no video stream", "FF -f lavfi -i sine=d=2 -c:a aac sound_only.mp4"),
    "sound.mp4": (50, ""),
    # ffmpeg itself takes the still; the film is what is wanted (documented).
    "motion_photo.mp4": (50, "film", "FF -f lavfi -i testsrc=s=640x480:r=1 -frames:v 1 -c:v mjpeg still.mov; FF -i still.mov -i base.mp4 -map 0 -map 1 -c copy motion_photo.mp4"),
}

SHAPES = {
    "size.ts": (49, "note", "FF $(S 25 1) $M2 a.ts; FF $(S 25 1 120x160) $M2 -output_ts_offset 1 b.ts; cat a.ts b.ts > size.ts"),
    "size.264": (50, "note", "FF $(S 25 1) $X a.264; FF $(S 25 1 320x240) $X b.264; cat a.264 b.264 > size.264"),
    "interlaced.mp4": (25, "FF -f lavfi -i cellauto=s=320x480:r=25:rule=110:seed=1 -t 1 -vf setfield=tff $X -x264-params tff=1 -crf 20 interlaced.mp4"),
    "interlaced.mpg": (25, "note", "FF $(S 50 1 320x240) -vf interlace $M2 -flags +ildct+ilme interlaced.mpg"),
    "interlaced.ts": (25, "note", "FF $(S 50 1 320x240) -vf interlace=scan=bff $X -x264-params bff=1 interlaced.ts"),
    "turned_90.mp4": (50, "matrix base.mp4 turned_90.mp4 0 1 -1 0"),
    "turned_180.mp4": (50, "matrix base.mp4 turned_180.mp4 -1 0 0 -1"),
    "turned_270.mp4": (50, "matrix base.mp4 turned_270.mp4 0 -1 1 0"),
    "upside_down.mp4": (50, "matrix base.mp4 upside_down.mp4 1 0 0 -1"),
    "mirrored.mp4": (50, "matrix base.mp4 mirrored.mp4 -1 0 0 1"),
    "transposed.mp4": (50, "matrix base.mp4 transposed.mp4 0 1 1 0"),
    "transposed_back.mp4": (50, "matrix base.mp4 transposed_back.mp4 0 -1 -1 0"),
    "turned_45.mp4": (50, "matrix base.mp4 turned_45.mp4 0.7071 0.7071 -0.7071 0.7071"),
    "wide_pixels.mp4": (25, "FF $(S 25 1 72x64) -vf setsar=64/45 $X wide_pixels.mp4"),
    "portrait.mp4": (25, "FF $(S 25 1 120x160) $X portrait.mp4"),
    "odd_sides.mkv": (25, "FF $(S 25 1 161x121) -c:v ffv1 -pix_fmt yuv420p odd_sides.mkv"),
    "tiny.avi": (10, "FF $(S 25 0.4 16x16) -c:v ffv1 tiny.avi"),
    "flat.mkv": (10, "FF $(S 25 0.4 320x16) $X flat.mkv"),
}

PIXELS = {
    "10_bit.mkv": (25, "FF $(S 25 1) -c:v libx265 -x265-params log-level=error -pix_fmt yuv420p10le 10_bit.mkv"),
    "12_bit.mkv": (25, "FF $(S 25 1) -c:v libx265 -x265-params log-level=error -pix_fmt yuv422p12le 12_bit.mkv"),
    "422.mkv": (25, "FF $(S 25 1) $X -pix_fmt yuv422p 422.mkv"),
    "444.mkv": (25, "FF $(S 25 1) $X -pix_fmt yuv444p 444.mkv"),
    "411.avi": (25, "FF $(S 25 1) -c:v rawvideo -pix_fmt yuv411p 411.avi"),
    "grey.mkv": (25, "FF $(S 25 1) -c:v ffv1 -pix_fmt gray grey.mkv"),
    "grey_16.mkv": (25, "FF $(S 25 1) -c:v ffv1 -pix_fmt gray16le grey_16.mkv"),
    "rgb.mkv": (25, "FF $(S 25 1) -c:v libx264rgb -preset veryfast rgb.mkv"),
    "rgba.mov": (25, "FF $(S 25 1) -c:v png -pix_fmt rgba rgba.mov"),
    "alpha.webm": (25, "FF $(S 25 1) -vf format=yuva420p -c:v libvpx-vp9 -deadline realtime -cpu-used 8 alpha.webm"),
    "full_range.mp4": (25, "FF $(S 25 1) -vf scale=out_range=pc -c:v libx264 -preset veryfast -pix_fmt yuvj420p full_range.mp4"),
    "bt709.mp4": (25, "FF $(S 25 1) -vf scale=out_color_matrix=bt709 $X -colorspace bt709 -color_primaries bt709 -color_trc bt709 bt709.mp4"),
    "monochrome.avi": (10, "FF $(S 25 0.4) -c:v rawvideo -pix_fmt pal8 monochrome.avi"),
}

NOT_WHOLE = {
    "half.mkv": ("cut short", "cut w.mkv 50 > half.mkv"),
    "most.mkv": ("cut short", "cut w.mkv 97 > most.mkv"),
    "half.webm": ("cut short", "FF $(S 25 4) -c:v libvpx -b:v 1M w.webm; cut w.webm 50 > half.webm"),
    "half.wmv": ("cut short", "FF $(S 25 4) -c:v wmv2 w.wmv; cut w.wmv 50 > half.wmv"),
    "half.avi": ("cut short", "FF $(S 25 4) -c:v mpeg4 w.avi; cut w.avi 50 > half.avi"),
    "half.mp4": ("cut short: its index", "cut long.mp4 50 > half.mp4"),
    "half_index_first.mp4": ("cut short", "FF -i sound.mp4 -c copy -movflags faststart i.mp4; cut i.mp4 50 > half_index_first.mp4"),
    "half_trim.mov": ("cut short", "FF -ss 1 -i long.mp4 -c copy -movflags faststart t.mov; cut t.mov 60 > half_trim.mov"),
    "half_fragments.mp4": ("cut short", "FF $(S 25 2) $X -g 10 -movflags frag_keyframe+empty_moov f.mp4; cut f.mp4 50 > half_fragments.mp4"),
    "half.flv": ("cut short", "FF $(S 25 4) $X w.flv; cut w.flv 50 > half.flv"),
    "half.ts": (None, "note", "FF $(S 25 4) $M2 w.ts; cut w.ts 50 > half.ts"),
    "half.mpg": (None, "note", "FF $(S 25 4) $M2 w.mpg; cut w.mpg 50 > half.mpg"),
    "half.ogv": (None, "note", "FF $(S 25 4) -c:v libtheora w.ogv; cut w.ogv 50 > half.ogv"),
    "live.mkv": (50, "note", "FF $(S 25 2) $X -f matroska - | cat > live.mkv"),
    "damaged.avi": ("damaged", "FF $(S 25 2) -c:v mjpeg -q:v 3 damaged.avi; dd if=/dev/zero of=damaged.avi bs=1 seek=60000 count=20000 conv=notrunc status=none"),
    "damaged.webm": ("damaged", "FF $(S 25 2) -c:v libvpx -b:v 1M damaged.webm; dd if=/dev/urandom of=damaged.webm bs=1 seek=30000 count=20000 conv=notrunc status=none"),
    "encrypted.mp4": ("encrypted", "FF -i base.mp4 -c copy -encryption_scheme cenc-aes-ctr -encryption_key 76a6c65c5ea762046bd749a2e632ccbb -encryption_kid a7e61c373e219033c21091fa607bf3b8 encrypted.mp4"),
    "text.mp4": ("not a video", "printf 'hello, this is text\\n' > text.mp4"),
    "page.avi": ("not a video", "printf '<html><body>404 not found</body></html>\\n%.0s' {1..50} > page.avi"),
    "zeros.mov": ("not a video", "head -c 100000 /dev/zero > zeros.mov"),
    "empty.mkv": ("empty file", ": > empty.mkv"),
    "head.mp4": ("cut short", "cut fragments.mp4 1 > head.mp4"),
    # ffmpeg makes 1.2 million frames of this: more than so many bytes can hold.
    "time_jumps.mkv": ("time stamps jump", "FF $(S 25 1) -vf \"setpts='if(eq(N,24),5e4/TB,PTS)'\" -vsync vfr $X -f matroska -live 1 time_jumps.mkv"),
}

FILES = {**CODECS, **RATES, **TIMES, **STREAMS, **SHAPES, **PIXELS, **NOT_WHOLE}


def make(folder, names=None):
    """Make the files in a folder, or some of them; return `{name: error}` for those that this ffmpeg cannot."""
    folder.mkdir(parents=True, exist_ok=True)

    def made(name):
        done = subprocess.run(
            ["bash", "-c", PRELUDE + (PARTS.get(name) or FILES[name][-1])],
            cwd=folder, env={**os.environ, "PYTHON": sys.executable, "MAKER": os.path.abspath(__file__)},
            capture_output=True, text=True,
        )  # fmt: skip
        is_there = done.returncode == 0 and (folder / name).exists()
        return "" if is_there else (done.stderr.strip().splitlines() or ["nothing was written"])[-1]

    with ThreadPool(2) as pool:  # of threads that wait for ffmpeg
        parts = list(PARTS)
        errors = dict(zip(parts, pool.map(made, parts, chunksize=1)))
        rest = [name for name in names or FILES if name not in PARTS]
        errors |= zip(rest, pool.map(made, rest, chunksize=1))
    return {name: error for name, error in errors.items() if error}


def write_matrix(source, target, *values):
    """Copy an mp4 with another display matrix; `values` are a, b, c and d."""
    content = bytearray(Path(source).read_bytes())
    at = content.find(b"tkhd") + 44
    numbers = list(struct.unpack_from(">9i", content, at))
    for place, value in zip((0, 1, 3, 4), values):
        numbers[place] = round(65536 * float(value))
    struct.pack_into(">9i", content, at, *numbers)
    Path(target).write_bytes(content)


if __name__ == "__main__":
    write_matrix(*sys.argv[2:])
