#!/usr/bin/python3
"""Rebuilds a guest's RAM from a recorded migration, by docs/wire-format.md alone: rebuild-ram.py RECORDING FOLDER

FOLDER gets a file for each RAM block: 0, 1, ... Needs Debian's python3-msgpack; of the encodings it knows deltas.
"""
import itertools
import sys
import msgpack

HELLO, WELCOME, PAGES, ZERO_PAGES, ROUND_END, ROUND_ACK, GO = 1, 2, 5, 6, 7, 8, 12
DELTA_PAGES, COMPRESSED_PAGES, RECORDED, RECORDING_END = 24, 25, 130, 132


def frames(objects):
    """Yields (header, payload): a payload is the only thing that is bytes, and follows its header."""
    header = None
    for thing in itertools.chain(objects, [0]):
        if header is not None:
            yield header, thing if isinstance(thing, bytes) else None
        header = thing if isinstance(thing, list) else None


def varint(data, at):
    value = shift = 0
    while True:
        value, shift, at = value | (data[at] & 0x7F) << shift, shift + 7, at + 1
        if data[at - 1] < 0x80:
            return value, at


def patched(page, data, at):
    """The page after the delta at `at`, and where the next delta is."""
    length, at = varint(data, at)
    end, place = at + length, 0
    while at < end:
        unchanged, at = varint(data, at)
        changed, at = varint(data, at)
        place += unchanged
        page[place : place + changed] = data[at : at + changed]
        place, at = place + changed, at + changed
    return page, end


def rebuild(objects, folder):
    hello, ram, sent, acknowledged, kinds, whole, link, handed_over = None, [], {}, {}, {}, False, None, False
    for (number, *fields), payload in frames(objects):
        if number == RECORDED:
            link = fields[0]
        elif number == RECORDING_END:
            whole = fields[2] is None
        elif number == HELLO:
            hello = fields
        elif number == WELCOME:  # Everything is zero; over a further connection it would be "resumed".
            ram = [open(f"{folder}/{index}", "w+b") for index in range(len(hello[5]))]
            for block, (_id, _address, byte_length, *_more) in zip(ram, hello[5]):
                block.truncate(byte_length)
        elif number in (PAGES, ZERO_PAGES, DELTA_PAGES):
            block, runs, size, at = ram[fields[1]], fields[2], hello[4], 0
            for first, count in zip(runs[0::2], runs[1::2]):
                for page in range(first, first + count):
                    block.seek(page * size)
                    if number == DELTA_PAGES:
                        data, at = patched(bytearray(block.read(size)), payload, at)
                    else:
                        data, at = bytes(size) if payload is None else payload[at : at + size], at + size
                    block.seek(page * size)
                    block.write(data)
                kinds[number] = kinds.get(number, 0) + count
            assert payload is None or at == len(payload), f"{len(payload)} bytes for {at}"
        elif number in (ROUND_END, ROUND_ACK):
            counts = sent if number == ROUND_END else acknowledged
            counts[link, fields[0]] = counts.get((link, fields[0]), 0) + fields[1]
        handed_over |= number == GO
        assert number != COMPRESSED_PAGES, "pages are compressed; record without compression"
    assert whole and all(sent[key] == pages for key, pages in acknowledged.items()), (whole, sent, acknowledged)
    print(f"{len(ram)} blocks, {len(acknowledged)} rounds, pages by type: {dict(sorted(kinds.items()))}, handed over: {handed_over}")


rebuild(msgpack.Unpacker(open(sys.argv[1], "rb"), raw=False), sys.argv[2])
