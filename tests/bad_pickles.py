"""Values that a weight file must not hold, as opcodes of a pickle, by what they try."""


def text_opcode(text):
    return b"\x8c" + bytes([len(text)]) + text.encode()


def named(module, name):
    return text_opcode(module) + text_opcode(name) + b"\x93"


def array_pickle(shape=b"K\x02\x85", dtype="f4", state=None, data=b"C\x08" + bytes(8), order="<"):
    """Return the opcodes of one array, each part of which can be spoilt."""
    begin = named("numpy.core.multiarray", "_reconstruct") + named("numpy", "ndarray")
    begin += b"K\x00\x85C\x01b\x87R"
    dtype = named("numpy", "dtype") + text_opcode(dtype) + b"\x89\x88\x87R(K\x03" + text_opcode(order)
    dtype += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    return begin + (b"(K\x01" + shape + dtype + b"\x89" + data + b"t" if state is None else state) + b"b"


CALLS = [("os", "system"), ("posix", "system"), ("builtins", "eval"), ("builtins", "exec"),
         ("builtins", "getattr"), ("builtins", "__import__"), ("subprocess", "Popen"), ("numpy", "load"),
         ("numpy.core.multiarray", "scalar"), ("numpy", "memmap"), ("numpy.f2py", "compile"),
         ("builtins", "bytearray"), ("collections", "OrderedDict"), ("_codecs", "encode"),
         ("model.checkpoint", "_build"), ("numpy", "ndarray.__setstate__"), ("a\nb", "c\nd"),
         ("copyreg", "_reconstructor"), ("copyreg", "add_extension"), ("numpy.testing", "measure")]
HUGE = [b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\x00\x00\x00\x40"]


# A tuple of 2**60 empty ones, whose text has no end.
DOUBLED = b")" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(60))
DTYPE_STATE = b"(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


def malicious_values():
    """Return opcodes of values that a weight file must not hold, by what they try."""
    values = {}
    for module, name in CALLS:
        line = f"c{module}\n{name}\n".encode()
        for how, begin in (("STACK_GLOBAL", named(module, name)), ("GLOBAL", line)):
            values[f"{how} {module}.{name}"] = begin
            values[f"{how} REDUCE {module}.{name}"] = begin + text_opcode("exit 3") + b"\x85R"
            values[f"{how} NEWOBJ {module}.{name}"] = begin + b")\x81"
            values[f"{how} BUILD {module}.{name}"] = begin + b"}" + text_opcode("a") + b"K\x01sb"
    values["INST"] = b"(" + text_opcode("exit 3") + b"ios\nsystem\n"
    values["OBJ"] = b"(" + named("os", "system") + text_opcode("exit 3") + b"o"
    values["NEWOBJ_EX"] = named("numpy", "ndarray") + b")}\x92"
    values["NEWOBJ ndarray"] = named("numpy", "ndarray") + b"J\x00\x00\x00\x40\x85\x85\x81"
    values["REDUCE ndarray"] = named("numpy", "ndarray") + b"J\x00\x00\x00\x40\x85\x85R"
    values["REDUCE tuple of a number"] = named("builtins", "tuple") + b"K\x05\x85R"
    for code in (b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00"):
        values[f"EXT {code[:1].hex()}"] = code
    values["PERSID"], values["BINPERSID"] = b"P1\n", b"K\x01Q"
    values["BUILD on ndarray"] = named("numpy", "ndarray") + b"}" + text_opcode("a") + b"K\x01sb"
    values["BUILD on tuple"] = named("builtins", "tuple") + b"}b"
    values["BUILD on a number"], values["BUILD on a dict"] = b"K\x01}b", b"}}b"
    reconstruct = named("numpy.core.multiarray", "_reconstruct")
    values["slots BUILD"] = reconstruct + b"N}" + text_opcode("__defaults__") + b"Ns\x86b"
    values["_reconstruct of int"] = reconstruct + b"K\x01K\x00\x85C\x01b\x87R"
    values["array without state"] = array_pickle(state=b"")[:-1]
    for i, state in enumerate((b")", b"}", b"N", b"K\x01", b"K\x01K\x02\x86", b"NN\x86")):
        values[f"array state {i}"] = array_pickle(state=state)
    values["array built twice"] = array_pickle() + b"}b"
    shapes = {
        "negative": b"J\xff\xff\xff\xff\x85", "negative pair": b"J\xfe\xff\xff\xffJ\xff\xff\xff\xff\x86",
        "huge": b"J\xff\xff\xff\x7f\x85", "overflowing": b"\x8a\x08" + b"\x00" * 7 + b"\x40K\x08\x86",
        "overflowing to 2": b"\x8a\x09" + b"\x02" + b"\x00" * 7 + b"\x01\x85", "empty": b"K\x00\x85",
        "true": b"\x88\x85", "float": b"G\x40\x00" + bytes(6) + b"\x85", "text": text_opcode("2") + b"\x85",
        "none": b"N", "list": b"]K\x02a", "number": b"K\x02", "many axes": b"(" + b"K\x01" * 60 + b"K\x02t",
        "no axis": b")", "one too few": b"K\x01\x85", "one too many": b"K\x03\x85",
    }  # fmt: skip
    for name, shape in shapes.items():
        values[f"shape {name}"] = array_pickle(shape)
    dtypes = ["O8", "O", "U1", "S8", "V8", "i4", "i8", "u1", "b1", "c8", "c16", "M8[s]", "f16", "g", "",
              "f3", "f", "f4,f4", "2f4", "(2)f4", "object", "float32", ">f4", "f999999999", "\0",
              "int8", "S99999999"]  # fmt: skip
    for dtype in dtypes:
        values[f"dtype {dtype}"] = array_pickle(dtype=dtype)
    for order in ("O", "|", "", "<<", "="):
        values[f"byte order {order}"] = array_pickle(order=order)
    datas = {"list": b"]", "objects": b"](K\x01K\x02e", "text": text_opcode("12345678"), "none": b"N",
             "short": b"C\x04abcd", "long": b"C\x0912345678\0", "pointer": b"K\x07",
             "bytearray": b"\x96\x08" + bytes(15)}
    for name, data in datas.items():
        values[f"data {name}"] = array_pickle(data=data)
    for length in HUGE:
        for opcode in (b"X", b"B", b"\x8b", b"T", b"r", b"j"):
            values[f"huge {opcode.hex()} {length.hex()}"] = b"K\x01" + opcode + length
        for opcode in (b"\x8d", b"\x8e", b"\x96", b"\x95"):
            values[f"huge {opcode.hex()} {length.hex()}"] = opcode + length + length
    values["huge PUT"], values["huge GET"] = b"K\x01p99999999999\n", b"g99999999999\n"
    values["long INT"], values["long LONG"] = b"I" + b"9" * 9000 + b"\n", b"L" + b"9" * 9000 + b"L\n"
    values["deep tuple"] = b")" + b"\x85" * 60_000
    values["deep tuple as key"] = b"}" + b")" + b"\x85" * 60_000 + b"K\x01s"
    values["deep list"], values["deep dict"] = b"]" * 60_000 + b"a" * 59_999, b"}" * 60_000
    values["name of 2**60 parts"] = DOUBLED + text_opcode("x") + b"\x93"
    dtype = named("numpy", "dtype") + b"("
    values["dtype of 2**60 parts"] = dtype + DOUBLED + b"\x89\x88tR" + DTYPE_STATE
    values["dtype's state of 2**60 parts"] = dtype + text_opcode("f4") + b"\x89\x88tR" + DOUBLED + b"b"
    values["text of 2**60 parts"] = named("_codecs", "encode") + DOUBLED + text_opcode("latin1") + b"\x86R"
    values["key of 2**60 parts"] = b"}" + DOUBLED + b"Ns"
    values["shape of 2**60 parts"] = array_pickle(DOUBLED)
    values["mark in the memo"] = b"(\x94h\x00t"
    values["list in itself"] = b"]\x94h\x00a"
    values["list as key"], values["number as key"] = b"}]K\x01s", b"}K\x01K\x01s"
    values["frozenset"], values["set"] = b"(\x91", b"\x8f(K\x01\x90"
    values["buffers"] = b"\x97\x98"
    values["stack underflow"], values["mark"] = b"\x87" * 9, b"((("
    values["number"], values["text"], values["none"], values["dict"] = b"K\x01", text_opcode("1"), b"N", b"}"
    return values
