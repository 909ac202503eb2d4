"""Settings that are no numbers, or impossible ones, are told apart from defects."""

import math

import pytest

from npexp.errors import ConfigError, UnknownNameError, positive
from npexp.layers.induced import InducedBlock
from npexp.mixers.base import Site, make_mixer

LATENTS = ["ist", "isab", "lbanp", "perceiver", "luna", "cmab", "pma", "te_ist", "te_perceiver", "etc", "bigbird_etc"]
IMPOSSIBLE = [math.nan, math.inf, 0, -1, "1", None]


@pytest.mark.parametrize("value", IMPOSSIBLE)
def test_positive_says_what_came(value):
    with pytest.raises(ConfigError) as error:
        positive("width", value)
    assert str(error.value) == f"expected width > 0, a finite number, got {value!r}: correct it"


def test_positive_returns_what_is():
    assert [positive("width", v) for v in (1, 1e-9)] == [1, 1e-9]


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("mixer", LATENTS)
def test_latents_cannot_start_anywhere(mixer, layer, untyped):
    for value in IMPOSSIBLE:
        with pytest.raises(ConfigError, match="expected init_stddev > 0, a finite number, got"):
            make_mixer(mixer, Site(2, 16, 2, layer), {"init_stddev": value})


@pytest.mark.parametrize("value", IMPOSSIBLE)
def test_other_numbers_above_zero(value, untyped):
    with pytest.raises(ConfigError, match="init_stddev > 0"):
        InducedBlock(16, 2, 16, 4, init_stddev=value)
    for mixer, setting in (("te_ist", "location_range"), ("kernel", "reach"), ("cmab", "location_range")):
        if mixer != "cmab" or value is not None:  # which is a choice there
            with pytest.raises(ConfigError, match=f"{setting} > 0"):
                make_mixer(mixer, Site(2, 16, 2, 0), {setting: value})


@pytest.mark.parametrize("value", [1, None, ["ortho"]])
def test_a_name_of_the_wrong_type_is_unknown(value, untyped):
    with pytest.raises(UnknownNameError, match="unknown"):
        make_mixer("fnet", Site(2, 16, 2, 0), {"norm": value})
