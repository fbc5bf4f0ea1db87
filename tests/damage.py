"""Kinds of damage to a run folder, and rewritings that say the same: for test_damage.py."""

import json
import os

import torch
from safetensors.torch import load_file, save


def cut(name):
    def damage(path):
        content = (path / name).read_bytes()
        (path / name).write_bytes(content[: len(content) // 2])

    return damage


def written(name, content):
    return lambda path: (path / name).write_bytes(content)


def huge(name):
    """A sparse file, which takes no room on the disk."""

    def damage(path):
        with (path / name).open("wb") as file:
            file.write(b'{"a": "')
            file.truncate(600 * 2**20)

    return damage


def changed(name, change):
    def damage(path):
        content = json.loads((path / name).read_text())
        change(content)
        (path / name).write_text(json.dumps(content))

    return damage


def text(name, old, new):
    def damage(path):
        content = (path / name).read_text()
        assert old in content
        (path / name).write_text(content.replace(old, new, 1))

    return damage


def arrays(change):
    def damage(path):
        tensors = load_file(path / "images.safetensors")
        change(tensors)
        (path / "images.safetensors").write_bytes(
            save({name: value.contiguous() for name, value in tensors.items()})
        )

    return damage


def removed(name):
    return lambda path: (path / name).unlink()


def pipe(name):
    def damage(path):
        (path / name).unlink()
        os.mkfifo(path / name)

    return damage


def nested(levels):
    value = 1
    for _ in range(levels):
        value = {"a": value}
    return value


def _nan(tensors):
    tensors["images"][1, 0, 0, 0, 0] = torch.nan


def _scaled(tensors):
    tensors["images"][:] *= 2


def _few_units(tensors):
    for name in tensors:
        tensors[name] = tensors[name][:1]


def _few_images(tensors):
    for name in ("images", "responses"):
        tensors[name] = tensors[name][:, :2]


def _no_images(tensors):
    tensors["images"] = tensors["images"][..., :0]


def _in_eight_bits(tensors):
    tensors["images"] = tensors["images"].to(torch.int8)


def header(change):
    """Change the header of images.safetensors and leave the tensors' bytes."""

    def damage(path):
        content = (path / "images.safetensors").read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        entries = json.loads(content[8:end])
        change(entries)
        text = json.dumps(entries).encode()
        (path / "images.safetensors").write_bytes(
            len(text).to_bytes(8, "little") + text + content[end:]
        )

    return damage


def further(dtype, shape, begin, end):
    """A further tensor in the header."""
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    return header(lambda entries: entries.update(further=entry))


def folder(name):
    def damage(path):
        (path / name).unlink()
        (path / name).mkdir()

    return damage


def link(name, target):
    def damage(path):
        (path / name).unlink()
        (path / name).symlink_to(target)

    return damage


def measures(change):
    return changed("metrics.json", lambda content: change(content["measures"]))


def record(**entries):
    return changed("run.json", lambda content: content.update(entries))


def of_every_unit(change):
    return changed("metrics.json", lambda content: [change(unit) for unit in content["units"]])


def _other_responses(tensors):
    tensors["responses"][0] *= 1.5


def _infinite(tensors):
    tensors["responses"][0, 0] = torch.inf


BRACKETS = b"[" * 200_000
HEADER = len(BRACKETS).to_bytes(8, "little") + BRACKETS

# Name -> damage of a run of two units, and what is said of it.
DAMAGES = {
    "run.json is cut off": (cut("run.json"), "run.json is not JSON"),
    "run.json is empty": (written("run.json", b""), "run.json is empty"),
    "run.json has 200,000 brackets": (written("run.json", BRACKETS), "nested too deeply"),
    "run.json has 600 MB": (huge("run.json"), "more than any run writes"),
    "run.json has bytes that are no text": (written("run.json", b'{"a": "\xff"}'), "UTF-8"),
    "run.json lacks the model": (changed("run.json", lambda r: r.pop("model")), "lacks model"),
    "run.json names other units": (changed("run.json", lambda r: r.update(units=[7, 8])), "lacks unit 0"),
    "run.json says another norm": (changed("run.json", lambda r: r.update(norm=1.5)), "says norm 1.5"),
    "run.json says a norm of -1": (changed("run.json", lambda r: r.update(norm=-1)), "norm is -1"),
    "run.json says another n": (changed("run.json", lambda r: r.update(n=5)), "has shape"),
    "run.json has a config of 500 levels": (changed("run.json", lambda r: r["config"].update(nested(500))), "nested deeper than 30 levels"),
    "run.json is a link to itself": (link("run.json", "run.json"), "cannot be read"),
    "run.json is a link to /dev/zero": (link("run.json", "/dev/zero"), "run.json is no file"),
    "run.json has facts of 500 levels": (record(versions=nested(500)), "nested deeper than 30 levels"),
    "run.json has a list of pictures that is none": (record(drawn=7), "drawn is 7"),
    "run.json has a word for a count": (record(attempts="x"), 'attempts is "x"'),
    "run.json has a model's name of 60,000 letters": (record(model="x" * 60_000), "model is "),
    "run.json contradicts its config": (record(fraction=0.5), "fraction is 0.5, and null in its config"),
    "run.json says that there are no images": (record(n=None), "there are no images"),
    "metrics.json is a folder": (folder("metrics.json"), "Is a directory"),
    "metrics.json is of 900 levels": (of_every_unit(lambda u: u.update(a=nested(900))), "nested deeper than 30 levels"),
    "metrics.json has lists of 400 levels": (of_every_unit(lambda u: u.update(a=json.loads("[" * 400 + "]" * 400))), "nested deeper than 30 levels"),
    "metrics.json has settings of 500 levels": (measures(lambda m: m["phase"].update(settings=nested(500))), "nested deeper than 30 levels"),
    "metrics.json has settings that are none": (measures(lambda m: m["phase"].update(settings=7)), 'measures has "phase"'),
    "metrics.json has a measure elsewhere": (measures(lambda m: m.update({"../images": {}})), 'measures has "../images"'),
    "metrics.json has no responses": (of_every_unit(lambda u: u.pop("response_mean")), "lacks response_mean"),
    "metrics.json is missing": (removed("metrics.json"), "metrics.json is not there"),
    "metrics.json is cut off": (cut("metrics.json"), "metrics.json is not JSON"),
    "metrics.json has 200,000 brackets": (written("metrics.json", b'{"units": ' + BRACKETS + b"}"), "nested too deeply"),
    "metrics.json has 600 MB": (huge("metrics.json"), "more than any run writes"),
    "metrics.json lacks a unit": (changed("metrics.json", lambda m: m["units"].pop()), "metrics.json lacks unit 1"),
    "metrics.json has a unit twice": (changed("metrics.json", lambda m: m["units"].append(m["units"][0])), "a unit twice"),
    "metrics.json has a word for a number": (changed("metrics.json", lambda m: m["units"][1]["phase"].update(f1f0="low")), 'f1f0 is "low"'),
    "metrics.json has NaN": (text("metrics.json", '"f1f0": ', '"f1f0": NaN, "x": '), "NaN is no number"),
    "metrics.json has 1e999": (text("metrics.json", '"f1f0": ', '"f1f0": 1e999, "x": '), "too large a number"),
    "metrics.json has other responses": (changed("metrics.json", lambda m: m["units"][0].update(response_mean=9.0)), "metrics.json says 9.0"),
    "images.safetensors is missing": (removed("images.safetensors"), "images.safetensors is not there"),
    "images.safetensors is cut off": (cut("images.safetensors"), "images.safetensors is cut off"),
    "images.safetensors is a pipe": (pipe("images.safetensors"), "images.safetensors is no file"),
    "images.safetensors has a header of brackets": (written("images.safetensors", HEADER), "nested too deeply"),
    "images.safetensors holds nothing": (written("images.safetensors", b"\2\0\0\0\0\0\0\0{}"), "lacks images"),
    "images.safetensors is a folder": (folder("images.safetensors"), "Is a directory"),
    "images.safetensors has tensors that overlap": (further("F32", [1], 0, 4), "images.safetensors is damaged"),
    "images.safetensors begins before its begin": (further("F32", [1], -4, 0), "images.safetensors is damaged"),
    "images.safetensors has an unknown type": (further("X9", [0], 0, 0), "images.safetensors is damaged"),
    "images.safetensors has 40,000 axes": (further("U8", [2**62] * 40_000, 0, 0), "images.safetensors is damaged"),
    "images.safetensors has a number as a note": (header(lambda h: h.update(__metadata__={"a": 5})), "images.safetensors is damaged"),
    "images have no pixels": (arrays(_no_images), "has shape"),
    "images are in eight bits": (arrays(_in_eight_bits), "is of type I8"),
    "pixels are doubled": (arrays(_scaled), "run.json says norm"),
    "a pixel is NaN": (arrays(_nan), "pixels that are not finite"),
    "images of too few units": (arrays(_few_units), "has shape"),
    "too few images": (arrays(_few_images), "has shape"),
    "a response is infinite": (arrays(_infinite), "the responses of unit 0"),
    "run.json has versions of 500 levels": (changed("run.json", lambda r: r["versions"].update(nested(500))), "nested deeper than 30 levels"),
    "run.json has wrong types": (changed("run.json", lambda r: r.update(norm=-1, attempts="x", seconds=[1], drawn=3, not_measured=5)), "drawn is 3"),
    "responses are changed": (arrays(_other_responses), "the responses of unit 0"),
}  # fmt: skip


def rewritten(name, **options):
    return lambda path: (path / name).write_text(
        json.dumps(json.loads((path / name).read_text()), **options)
    )


def _reordered(path):
    """The same tensors in another order, with a note, in float64."""
    tensors = load_file(path / "images.safetensors")
    wide = {
        name: value.double() if value.is_floating_point() else value
        for name, value in tensors.items()
    }
    (path / "images.safetensors").write_bytes(
        save(dict(reversed(wide.items())), {"by": "another tool"})
    )


SAME = {
    "metrics.json without a final newline": lambda p: (p / "metrics.json").write_text((p / "metrics.json").read_text().rstrip()),
    "metrics.json in a line": rewritten("metrics.json", separators=(",", ":")),
    "metrics.json with sorted keys": rewritten("metrics.json", sort_keys=True, indent=8),
    "metrics.json with a byte order mark": lambda p: (p / "metrics.json").write_bytes(b"\xef\xbb\xbf" + (p / "metrics.json").read_bytes()),
    "run.json in a line": rewritten("run.json"),
    "run.json with blank lines": lambda p: (p / "run.json").write_text("\n\n" + (p / "run.json").read_text() + "\n\n"),
    "images.safetensors by another tool": _reordered,
}  # fmt: skip
