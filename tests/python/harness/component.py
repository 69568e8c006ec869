"""Writes components byte by byte: for uploads that no tool would make.

The binary form is that of the component model's `Binary.md` and of WebAssembly's specification.
"""

import random
from typing import Sequence

#: Opcodes of core WebAssembly.
END, LOCAL_GET, LOCAL_SET, I32_CONST, I32_ADD, I32_MUL = b"\x0b", b"\x20", b"\x21", b"\x41", b"\x6a", b"\x6c"
BLOCK, BR_IF = b"\x02\x40", b"\x0d"

#: How many locals each function of `slow` has.
LOCALS = 500


def leb(number: int) -> bytes:
    """An unsigned number in LEB128."""
    encoded = b""
    while True:
        number, byte = number >> 7, number & 0x7F
        encoded += bytes([byte | (0x80 if number else 0)])
        if not number:
            return encoded


def section(number: int, body: bytes) -> bytes:
    return bytes([number]) + leb(len(body)) + body


def name(text: str) -> bytes:
    return leb(len(text)) + text.encode()


def custom(text: str, content: bytes) -> bytes:
    """A section that means nothing."""
    return section(0, name(text) + content)


def core_module(bodies: Sequence[bytes], more: bytes = b"", locals_each: int = 1) -> bytes:
    """A core module with functions that take nothing and give an i32; the first is exported as `f`.

    A body is code, without its end, and has so many locals. `more` are sections behind the code.
    """
    code = leb(len(bodies))
    for body in bodies:
        whole = leb(1) + leb(locals_each) + b"\x7f" + body + END
        code += leb(len(whole)) + whole
    return (
        b"\0asm\x01\0\0\0"
        + section(1, leb(1) + b"\x60\0\x01\x7f")
        + section(3, leb(len(bodies)) + b"\0" * len(bodies))
        + section(7, leb(1) + name("f") + b"\0\0")
        + section(10, code)
        + more
    )


def component(module: bytes, operation: str = "get", more: bytes = b"") -> bytes:
    """A component whose one operation, without parameters, gives the u32 that the module's `f` gives."""
    return (
        b"\0asm\x0d\0\x01\0"
        + section(1, module)
        + section(2, leb(1) + b"\0\0\0")
        + section(6, leb(1) + b"\0\0\x01\0" + name("f"))
        + section(7, leb(1) + b"\x40\0\0\x79")
        + section(8, leb(1) + b"\0\0\0\0\0")
        + section(11, leb(1) + b"\0" + name(operation) + b"\x01\0\0")
        + more
    )


def number(value: int) -> bytes:
    """Code that gives a small number."""
    assert 0 <= value < 64
    return I32_CONST + bytes([value])


def large(value: int, size: int) -> bytes:
    """A component of at least so many bytes that gives `value`, and is quick to compile."""
    return component(core_module([number(value)]), more=custom("padding", bytes(size)))


def slow(functions: int, steps: int) -> bytes:
    """A component with so many functions of so many steps, for a compiler to work at.

    A step may be left out at run time, and changes one of 500 locals: all are alive at its end, and are added up.
    """
    chance, body = random.Random(7), bytearray()
    for _ in range(steps):
        one, other, changed = (leb(chance.randrange(LOCALS)) for _ in range(3))
        body += BLOCK + LOCAL_GET + one + BR_IF + b"\0" + LOCAL_GET + other + LOCAL_GET + one
        body += I32_MUL + LOCAL_SET + changed + END
    body += number(7) + b"".join(LOCAL_GET + leb(place) + I32_ADD for place in range(LOCALS))
    return component(core_module([bytes(body)] * functions, locals_each=LOCALS))


def segments(count: int) -> bytes:
    """A component with so many data segments of one byte."""
    data = leb(count) + b"".join(b"\0" + I32_CONST + b"\0" + END + b"\x01x" for _ in range(count))
    module = core_module([number(1)])
    begin = module.index(section(7, leb(1) + name("f") + b"\0\0"))
    memory = section(5, leb(1) + b"\0\x01")
    return component(module[:begin] + memory + module[begin:] + section(11, data))


def instances(count: int) -> bytes:
    """A component with so many instances of one module, which has a memory of a page."""
    module = core_module([number(1)])
    begin = module.index(section(7, leb(1) + name("f") + b"\0\0"))
    module = module[:begin] + section(5, leb(1) + b"\0\x01") + module[begin:]
    one, many = section(2, leb(1) + b"\0\0\0"), section(2, leb(count) + b"\0\0\0" * count)
    whole = component(module)
    assert whole.count(one) == 1
    return whole.replace(one, many)
