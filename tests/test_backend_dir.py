"""What can be known of a directory without importing what is in it."""

from pathlib import Path

import pytest

from lsml_bento.backend_dir import (
    added_to_app,
    classes,
    find_class,
    has_service,
    is_drop_in,
    plain_service,
    serves,
    service_target,
    with_class,
)
from tests.cli.commands import write


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("class A(LabelStudioMLBase): ...", ["A"]),
        ("import lsml_bento\nclass A(lsml_bento.LabelStudioMLBase): ...", ["A"]),
        ("from x import LabelStudioMLBase as B\nclass A(B): ...", ["A"]),
        (
            "class A(LabelStudioMLBase): ...\nclass B(Mixin, A): ...\nclass C: ...",
            ["B"],
        ),
        ("class A(LabelStudioMLBase, Generic[T]): ...", ["A"]),
        ("class A(make()): ...", []),
        ("", []),
    ],
)
def test_classes_are_found_by_their_bases(
    tmp_path: Path, text: str, found: list[str]
) -> None:
    write(tmp_path, model=text)
    assert classes(tmp_path / "model.py") == found
    assert find_class(tmp_path / "model.py") == (found[0] if found else None)


def test_a_target_gets_its_class_where_there_is_one(tmp_path: Path) -> None:
    write(tmp_path, one="class A(LabelStudioMLBase): ...", broken="(")
    assert with_class("one", tmp_path) == "one:A"
    assert with_class("one:B", tmp_path) == "one:B"
    assert with_class("broken", tmp_path) == "broken"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("svc = create_service('a:B')", True),
        ("svc: Service = create_service('a:B')", True),
        ("from other import thing as svc", True),
        ("class svc: ...", True),
        ("svc = (", True),
        ("def svc(): ...", False),
        ("a.svc = 1", False),
        ("", False),
    ],
)
def test_a_service_is_a_file_that_sets_svc(
    tmp_path: Path, text: str, found: bool
) -> None:
    assert not has_service(tmp_path)
    write(tmp_path, service=text)
    assert has_service(tmp_path) is found
    assert serves(tmp_path) is found


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("svc = create_service('a:B', workers=2)", "a:B"),
        ("svc = lsml_bento.create_service(model='a')", "a"),
        ("svc = create_service(A)", None),
        ("svc = 1", None),
    ],
)
def test_the_target_of_a_service_is_read(
    tmp_path: Path, text: str, target: str | None
) -> None:
    assert service_target(tmp_path) is None
    write(tmp_path, service=text)
    assert service_target(tmp_path) == target


def test_a_directory_of_label_studio_ml_is_recognised_by_its_imports(
    tmp_path: Path,
) -> None:
    write(tmp_path, model="# label_studio_ml\nimport label_studio_mlx\n")
    assert not is_drop_in(tmp_path)
    write(tmp_path, late="def f():\n    from label_studio_ml.utils import x\n")
    assert is_drop_in(tmp_path)


def test_either_model_or_wsgi_can_be_served(tmp_path: Path) -> None:
    assert not serves(tmp_path)
    write(tmp_path, _wsgi="")
    assert serves(tmp_path)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("svc = create_service('a:B')", {"model": "a:B"}),
        (
            "svc = create_service('a:B', name='x', workers=2)",
            {"model": "a:B", "name": "x", "workers": 2},
        ),
        ("svc = create_service('a:B', name=NAME)", None),
        ("svc = create_service('a:B', **{})", None),
        ("svc = create_service('a:B', directory='/')", None),
        ("svc = create_service('a:B', 32)", None),
        ("svc = create_service(a.B)", None),
        ("import os\nsvc = create_service('a:B')", None),
        ("svc = create_service('a:B')\nsvc.x = 1", None),
        ("svc = (", None),
    ],
)
def test_the_arguments_of_a_plain_service_are_read(
    tmp_path: Path, text: str, found: dict[str, object] | None
) -> None:
    head = '"""A service."""\n\nfrom lsml_bento import create_service\n'
    write(tmp_path, service=head + text)
    assert plain_service(tmp_path) == found


def test_what_wsgi_adds_to_its_app_is_found(tmp_path: Path) -> None:
    assert added_to_app(tmp_path) == []
    write(
        tmp_path,
        _wsgi="import os\napp = init_app(model_class=M)\nos.environ.get('PORT')\n"
        "@app.route('/data', methods=['POST'])\ndef data(): ...\n"
        "@app.get('/more')\n@app.route('/data')\ndef more(): ...\n"
        "app.add_url_rule('/rule', view_func=more)\n"
        "app.register_blueprint(pages)\n"
        "app.wsgi_app = ProxyFix(app.wsgi_app)\n",
    )
    found = added_to_app(tmp_path)
    assert sorted(found) == ["/data", "/more", "/rule", "a blueprint", "wsgi_app"]
    write(tmp_path, _wsgi="(")
    assert added_to_app(tmp_path) == []
