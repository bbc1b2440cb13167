"""Videos, frames, annotations and clips: everything between an avi file and a batch."""
