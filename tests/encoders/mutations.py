"""Random mutations of an encoder folder that is not trusted.

``python tests/encoders/mutations.py FOLDER COUNT SEED`` tries many from one
parent: each in a process of its own, whose time and peak memory are limited
and measured, and which must run nothing, and open nothing outside the folder.
"""

import json
import os
import pathlib
import resource
import shutil
import sys
import tempfile
import time
import zipfile

import numpy as np

WATCHED = {
    "open",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
    "socket.connect",
    "socket.getaddrinfo",
}
VALUES = [
    "9**9**9",
    "'x' * 999999999",
    "999999999",
    "-1",
    "1e308",
    ".nan",
    "null",
    "!apply:os.system [touch OUT]",
    "!name:os.system",
    "!new:os._exit [3]",
    "!ref <embedding_model>",
    "!ref <modules>",
    "!ref <sample_rate> ** 99",
    "!include:/etc/passwd",
    "/etc/passwd",
    "https://example.org/a.ckpt",
    "[[[[[[[[1]]]]]]]]",
    "{a: {b: {c: 1}}}",
    "!copy <modules>",
    "(1, 2)",
    "speechbrain/spkrec-ecapa-voxceleb",
    "../../outside.ckpt",
    "[]",
    "true",
]
LINES = [
    "compile: true",
    "device: cuda",
    "jit: true",
    "x: !!python/name:os.system",
    "a: &a [*a]",
    "x: !apply:os.system [touch OUT]",
    "debug: true",
    "b0: &b0 [x,x]\n"
    + "\n".join(
        f"b{i}: &b{i} [{', '.join([f'*b{i - 1}'] * 9)}]" for i in range(1, 12)
    ),
    "deep: " + "[" * 3000 + "]" * 3000,
    "c0: xxxxxxxx\n"
    + "\n".join(f"c{i}: !ref <c{i - 1}><c{i - 1}>" for i in range(1, 40)),
]


def mutate(folder, rng, out):
    """Changes an encoder folder in place, at random; returns what it did."""
    folder = pathlib.Path(folder)
    path = folder / "hyperparams.yaml"
    kind = rng.choice(["value", "line", "bytes", "weights", "link", "move"])
    if kind == "value":
        lines = path.read_text().split("\n")
        where = [i for i, line in enumerate(lines) if ":" in line]
        for place in rng.choice(where, rng.integers(1, 4)):
            value = str(rng.choice(VALUES)).replace("OUT", str(out))
            lines[place] = lines[place].partition(":")[0] + ": " + value
        path.write_text("\n".join(lines))
    elif kind == "line":
        text = str(rng.choice(LINES)).replace("OUT", str(out))
        path.write_text(path.read_text() + "\n" + text + "\n")
    elif kind == "bytes":
        file = rng.choice(sorted(folder.iterdir()))
        content = bytearray(file.read_bytes())
        for place in rng.integers(len(content), size=rng.integers(1, 20)):
            content[place] = rng.integers(256)
        file.write_bytes(
            content[: rng.integers(len(content) // 2, len(content))]
        )
    elif kind == "weights":
        file = rng.choice(sorted(folder.glob("*.ckpt")))
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02." + bytes(2**28))
    elif kind == "link":
        file = rng.choice(sorted(folder.iterdir()))
        file.unlink()
        if rng.random() < 0.5:
            file.symlink_to(rng.choice(["/etc/passwd", "/dev/zero", "/"]))
        else:
            os.mkfifo(file)
    else:
        text = path.read_text()
        place = str(rng.choice(["/etc", "https://example.org", "a/b", ".."]))
        paths = (
            f"\n  paths:\n    embedding_model: {place}/embedding_model.ckpt\n"
        )
        path.write_text(text.rstrip() + paths)
    return str(kind)


def attempt(folder, out):
    """Loads a folder in a process of its own: what came of it."""
    from speechbrain_cadino.encoders.load import load_encoder

    start = time.monotonic()
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        result = "loaded"
        opened = []

        def watch(event, arguments):
            if event in WATCHED:
                opened.append((event, str(arguments[0])))

        sys.addaudithook(watch)
        try:
            load_encoder(folder, "cpu", trusted=False)
        except (ValueError, OSError) as error:
            result = f"refused: {str(error)[:100]}"
        except BaseException as error:
            result = f"TRACEBACK: {error!r}"
        outside = [
            pair
            for pair in opened
            if pair[0] != "open" or pair[1] in ("/etc/passwd", "/dev/zero")
        ]
        os.write(write, json.dumps([result, outside]).encode()[:60000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    _, status, usage = os.wait4(child, 0)
    result, outside = json.loads(text) if text else (f"DIED {status}", [])
    # The peak of what it has started counts too
    peak = usage.ru_maxrss / 1e6
    return result, outside, time.monotonic() - start, peak, out.exists()


def main(source, count, seed):
    """Tries so many; prints what they took."""
    from speechbrain_cadino.encoders.load import load_encoder

    load_encoder(source, "cpu", trusted=False)
    rng = np.random.default_rng(seed)
    tally, worst, bad = {}, [0.0, 0.0], []
    for number in range(count):
        with tempfile.TemporaryDirectory() as scratch:
            folder = pathlib.Path(shutil.copytree(source, f"{scratch}/encoder"))
            out = pathlib.Path(scratch, "ran")
            kind = mutate(folder, rng, out)
            result, outside, seconds, peak, ran = attempt(folder, out)
        key = f"{kind}: {result.split(':')[0].split(' ')[0]}"
        tally[key] = tally.get(key, 0) + 1
        worst = [max(worst[0], seconds), max(worst[1], peak)]
        if ran or outside or seconds > 10 or peak > 2 or result[0] in "TD":
            bad.append((number, kind, result, outside, seconds, peak, ran))
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps(tally, indent=1), f"slowest {worst[0]:.1f} s, largest")
    print(f"{worst[1]:.2f} GB (the parent: {base:.2f} GB), {len(bad)} bad")
    for line in bad[:20]:
        print(line)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
