"""A run of two units of ten families of timm's networks, with random weights."""

import pytest

import diversevis

QUICK = ["model=timm", "model.weights=random", "unit=0-1", "n=2", "device=cpu", "images=tensor",
         "optimizer.steps=4", "optimizer.search_steps=2", "objective.restarts=1"]  # fmt: skip
FIELDS = {  # name and layer -> side of the field, as its arithmetic says; None: the whole image
    "resnet50d conv1.3": 7,
    "seresnet50 maxpool": 11,
    "seresnet50 layer2.0": None,
    "mobilenetv3_small_100 conv_stem": 3,
    "mobilenetv3_small_100 blocks.2.0": None,
    "convnext_nano stages.0.blocks.0": 28,
    "efficientnetv2_rw_t conv_stem": 3,
    "vit_tiny_patch16_224 blocks.1": None,
    "swin_tiny_patch4_window7_224 layers.0": None,
    "mixer_s32_224 blocks.0": None,
    "regnety_004 s2.b1": None,
    "resnetv2_50x1_bit stages.0.blocks.0": None,  # group norm
}


@pytest.mark.slow
@pytest.mark.parametrize("case", FIELDS)
def test_run_of_two_units_finishes(case, tmp_path):
    pytest.importorskip("timm")
    name, layer = case.split()
    words = [f"model.name={name}", f"layer={layer}", f"root={tmp_path}"]
    result = diversevis.run(*QUICK, *words)
    field = result.record["receptive_field"]
    side = FIELDS[case]
    if side is None:
        assert field["stride"] == [0, 0]
        assert field["size"] == [224, 224]
    else:
        assert field["size"] == [side, side]
    assert result.record["status"] == "finished"
    assert result.images.shape[:2] == result.responses.shape == (2, 2)
