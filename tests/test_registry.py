"""Names to objects: what went wrong is said as it is."""

import pytest

from npexp.errors import ConfigError
from npexp.registry import instantiate


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("brought.nowhere", "there is no module 'brought.nowhere': No module named 'brought.nowhere'"),
        ("absent", "there is no module 'absent': No module named 'absent'"),
        ("brought.needy", "importing 'brought.needy' failed: No module named 'missing_package'"),
        ("brought.old", "importing 'brought.old' failed: cannot import name 'renamed' from 'math'"),
    ],
)
def test_a_failed_import_is_no_missing_module(tmp_path, monkeypatch, module, message):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "brought").mkdir()
    (tmp_path / "brought/needy.py").write_text("import missing_package")
    (tmp_path / "brought/old.py").write_text("from math import renamed")
    with pytest.raises(ConfigError) as error:
        instantiate({"class_path": f"{module}.Thing"}, trusted=("brought", "absent"))
    assert str(error.value).startswith(message)
