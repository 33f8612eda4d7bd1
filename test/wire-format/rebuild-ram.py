#!/usr/bin/python3
"""Rebuilds a guest's RAM from a recorded migration, by docs/wire-format.md and nothing else.

Usage: rebuild-ram.py RECORDING FOLDER. Writes FOLDER/0, FOLDER/1, ...: one file for each RAM block of the hello.
Debian's python3-msgpack is all it needs.
"""
import os
import sys

import msgpack

HELLO, WELCOME, PAGES, ZERO_PAGES, ROUND_END, ROUND_ACK, GO = 1, 2, 5, 6, 7, 8, 12
DELTA_PAGES, COMPRESSED_PAGES = 24, 25
RECORDED, RECORDING_END = 130, 132


def frames(objects):
    """Yields (header, payload): a payload is the only thing that is bytes, and follows its header."""
    header = None
    for thing in objects:
        if isinstance(thing, bytes):
            yield header, thing
            header = None
            continue
        if header is not None:
            yield header, None
        header = thing if isinstance(thing, list) else None
    if header is not None:
        yield header, None


def rebuild(objects, folder):
    hello, ram, sent, acknowledged, ended = None, [], {}, {}, None
    link, sender, handed_over = None, None, False
    for (number, *fields), payload in frames(objects):
        if number == RECORDED:
            link, _stream, sender, _at = fields
        elif number == RECORDING_END:
            ended = fields
        elif number == HELLO:
            hello = fields
        elif number == WELCOME:
            # Everything is zero at first; over a further connection the destination says "resumed" instead.
            ram = [open(os.path.join(folder, str(index)), "wb") for index in range(len(hello[5]))]
            for block, (_id, _address, byte_length) in zip(ram, hello[5]):
                block.truncate(byte_length)
        elif number in (DELTA_PAGES, COMPRESSED_PAGES):
            raise NotImplementedError("a recording with encoded pages: section 8 of the document")
        elif number == ROUND_ACK:
            acknowledged[link, fields[0]] = fields[1]
        elif number == ROUND_END:
            sent[link, fields[0]] = sent.get((link, fields[0]), 0) + fields[1]
        elif number in (PAGES, ZERO_PAGES):
            _round, block, runs = fields[:3]
            at = 0
            for first, count in zip(runs[0::2], runs[1::2]):
                size = count * hello[4]
                ram[block].seek(first * hello[4])
                ram[block].write(bytes(size) if payload is None else payload[at : at + size])
                at += size
            assert payload is None or at == len(payload), f"{len(payload)} bytes for {at}"
        elif number == GO and sender == "S":
            handed_over = True
    for block in ram:
        block.close()
    assert ended is not None and ended[2] is None, f"the recording is not whole: {ended}"
    for key, pages in acknowledged.items():
        assert sent[key] == pages, f"{key}: sent {sent[key]}, acknowledged {pages}"
    print(f"{len(ram)} blocks, {len(acknowledged)} rounds, {sum(acknowledged.values())} pages, handed over: {handed_over}")


with open(sys.argv[1], "rb") as recording:
    rebuild(msgpack.Unpacker(recording, raw=False), sys.argv[2])
