"""The corpus: nothing lost, nothing shared between the parts, one order of the data per seed."""

import json
import warnings

import numpy as np
import pytest

from bitlaw.train import data

# Of 0.txt to 59.txt: the first 8 bytes of sha256(name), big-endian, are divisible by 10.
HELD_OUT = [4, 13, 15, 36, 38, 39, 41, 43, 47, 49]


def texts(rows):
    """The pieces of documents in packed rows, sorted."""
    tokens, segments = rows["tokens"], rows["tokens_segment_ids"]
    return sorted(
        row[ids == segment].tobytes()
        for row, ids in zip(tokens, segments, strict=True)
        for segment in range(1, ids.max() + 1)
    )


def pieces(document, length):
    return [document[i : i + length] for i in range(0, len(document), length)]


def test_rows_hold_every_byte_of_their_part_once(folder, corpus):
    for part, held_out in ((corpus.train, False), (corpus.validation, True)):
        expected = [
            piece
            for path in folder.iterdir()
            if data._is_validation(path.name) is held_out
            for piece in pieces(path.read_bytes(), corpus.context + 1)
        ]
        assert texts(part) == sorted(expected)


def test_the_split_is_by_name_and_new_documents_move_no_other(folder, corpus, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "new.txt").write_text("new " * 50)
    grown = data.load([tmp_path], context=16, validation_bytes=256)
    for part in ("train", "validation"):
        assert set(texts(getattr(corpus, part))) <= set(texts(getattr(grown, part)))
    assert [i for i in range(60) if data._is_validation(f"{i}.txt")] == HELD_OUT


def test_copies_of_a_document_are_dropped_wherever_they_are(folder, corpus, tmp_path):
    for copy in ("a", "b"):
        (tmp_path / copy).mkdir()
        for path in folder.iterdir():
            (tmp_path / copy / path.name).write_bytes(path.read_bytes())
    once = data.load([tmp_path / "a"], context=16, validation_bytes=256)
    assert once.sha256 == corpus.sha256
    reversed_ = data.load([tmp_path / "b", tmp_path / "a"], context=16, validation_bytes=256)
    assert reversed_.sha256 == corpus.sha256
    # Under the names a/... and b/... the split is another, but each document is in one part once.
    twice = data.load([tmp_path], context=16, validation_bytes=64)
    for part, held_out in ((twice.train, False), (twice.validation, True)):
        assert texts(part) == sorted(
            piece
            for path in folder.iterdir()
            if data._is_validation(f"a/{path.name}") is held_out
            for piece in pieces(path.read_bytes(), corpus.context + 1)
        )


def test_the_fingerprint_covers_names_and_bytes(folder, corpus, tmp_path):
    def fingerprint():
        return data.load([tmp_path], context=16, validation_bytes=256).sha256

    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert fingerprint() == corpus.sha256
    (tmp_path / "0.txt").rename(tmp_path / "00.txt")
    renamed = fingerprint()
    (tmp_path / "1.txt").write_bytes((tmp_path / "1.txt").read_bytes() + b"!")
    assert len({corpus.sha256, renamed, fingerprint()}) == 3


def test_the_standard_library_is_a_corpus():
    corpus = data.load()
    assert corpus.validation["tokens"].size >= data.VALIDATION_BYTES
    assert corpus.n_train_tokens > 4 * 2**20
    assert corpus.train["tokens"].shape[1] == corpus.context + 1 == 129
    padding = np.mean(corpus.train["tokens_segment_ids"] == 0)
    assert padding < 0.01


def test_installed_is_the_library_its_tests_and_every_package_but_ours(tmp_path, monkeypatch):
    library, packages = tmp_path / "lib", tmp_path / "env" / "site-packages"
    inside = library / "site-packages"
    for folder, name in [
        (library, "json/tool.py"), (library, "test/test_json.py"), (inside, "numpy/core.py"),
        (packages, "scipy/linalg.py"), (packages, "bitlaw/cli.py"), (packages, "scipy/notes.md"),
    ]:  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    monkeypatch.setattr(data.sysconfig, "get_path", lambda name: str(library))
    monkeypatch.setattr(data.sys, "path", [str(inside), str(packages), str(packages), "elsewhere"])
    assert sorted(name for name, _ in data.installed()) == [
        "json/tool.py", "numpy/core.py", "scipy/linalg.py", "test/test_json.py",
    ]  # fmt: skip


def test_lines_of_jsonl_are_documents(folder, corpus, tmp_path):
    documents = [path.read_text() for path in folder.iterdir()]
    lines = [json.dumps({"text": document, "id": 1}) for document in documents]
    (tmp_path / "all.jsonl").write_text("\n".join(lines) + "\n\n")
    loaded = data.load([tmp_path / "all.jsonl"], context=16, validation_bytes=128)
    both = texts(loaded.train) + texts(loaded.validation)
    assert sorted(both) == sorted(texts(corpus.train) + texts(corpus.validation))


def test_every_epoch_visits_every_row_once_in_another_order(corpus):
    rows = len(corpus.train["tokens"])
    steps = -(-2 * rows // 7)
    visited = corpus.train_batches(0, 7, 0, steps, salt=0)["inputs"].reshape(-1, 16)
    first, second = visited[:rows], visited[rows : 2 * rows]
    assert rows % 7  # the first epoch ends inside a batch
    everything = sorted(map(bytes, corpus.train["tokens"][:, :-1]))
    assert sorted(map(bytes, first)) == sorted(map(bytes, second)) == everything
    assert not np.array_equal(first, second)


def test_order_depends_on_the_seed_and_not_on_how_it_is_asked_for(corpus):
    whole = corpus.train_batches(0, 4, 0, 90, salt=768)
    parts = [corpus.train_batches(0, 4, begin, begin + 30, salt=768) for begin in (0, 30, 60)]
    for name, array in whole.items():
        assert np.array_equal(array, np.concatenate([part[name] for part in parts]))
    for seed, salt in ((1, 768), (0, 3072)):
        other = corpus.train_batches(seed, 4, 0, 90, salt=salt)
        assert not np.array_equal(whole["inputs"], other["inputs"])


def test_validation_batches_are_fixed_and_from_the_validation_rows(corpus):
    batches = corpus.validation_batches(8)
    again = corpus.validation_batches(8)
    assert all(np.array_equal(batches[name], again[name]) for name in batches)
    held_out = set(map(bytes, corpus.validation["tokens"][:, :-1]))
    assert set(map(bytes, batches["inputs"].reshape(-1, 16))) <= held_out


def test_more_than_four_epochs_warns_and_more_than_sixteen_is_refused(corpus):
    epoch = corpus.n_train_tokens
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        corpus.check_budget(4 * epoch)
    with pytest.warns(UserWarning, match=r"takes 5\.0 epochs"):
        corpus.check_budget(5 * epoch)
    with pytest.raises(ValueError, match=f"d_tokens must be at most 16 epochs .* got {17 * epoch}"):
        corpus.check_budget(17 * epoch)


def test_bad_data_is_named(folder, tmp_path):
    with pytest.raises(ValueError, match=r"data must exist, got .*none\.txt"):
        data.load([tmp_path / "none.txt"])
    with pytest.raises(ValueError, match=r"data must be \.txt or \.jsonl files or folders"):
        data.load([tmp_path])
    with pytest.raises(
        ValueError, match=r"data must be stdlib or installed alone, .* got stdlib one\.txt"
    ):
        data.load(["stdlib", "one.txt"])
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match="got 0 and 0 bytes in 0 documents"):
        data.load([tmp_path])
    with pytest.raises(ValueError, match="data must give at least 262144 bytes of validation"):
        data.load([folder])
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"txt": "b"}\n')
    with pytest.raises(ValueError, match=r'"text" string per line, got .*bad\.jsonl:2'):
        data.load([tmp_path / "bad.jsonl"])
