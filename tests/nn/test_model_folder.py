"""Where the files of a model are: folders, Hugging Face's cache, downloads, and what is said without."""

import json
import shutil

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError, RepositoryNotFoundError

from latentbench.bench.nn.model_folder import WEIGHTS, ModelFolder, NoModel
from latentbench.bench.nn.weights import OfflineError

CONFIG = {"_class_name": "AutoencoderKL"}
COMMIT = "0" * 40


def write(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for name in names:
        (folder / name).write_bytes(b"x")
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Hugging Face's cache, empty, with the folder in which it keeps a revision of `owner/name`."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.chdir(tmp_path)
    kept = tmp_path / "cache" / "models--owner--name"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text(COMMIT)
    return kept / "snapshots" / COMMIT


@pytest.fixture
def hub(tmp_path, cache, monkeypatch):
    """The repository `owner/name`, as a folder from which files are downloaded, and what was."""
    repository, log = tmp_path / "repository", []

    def download(id, name, revision=None):
        log.append(name)
        if not (repository / name).is_file():
            raise RemoteEntryNotFoundError(f"no {name}", response=Response())
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        return shutil.copy(repository / name, cache / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    return repository, log


class Response:
    headers, status_code, request = {}, 404, None


def test_a_folder_has_its_config_and_the_first_of_its_weight_files(tmp_path):
    for name in reversed(WEIGHTS):
        write(tmp_path / "vae", name)
        folder = ModelFolder(str(tmp_path), "vae")
        assert folder.config() == CONFIG and folder.weights() == tmp_path / "vae" / name


def test_variables_and_the_home_are_expanded(tmp_path, monkeypatch):
    write(tmp_path, WEIGHTS[0])
    monkeypatch.setenv("MODELS", str(tmp_path.parent))
    assert ModelFolder(f"$MODELS/{tmp_path.name}").weights() == tmp_path / WEIGHTS[0]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ModelFolder("~").config() == CONFIG


def test_a_folder_of_the_form_of_an_id_is_a_folder(tmp_path, monkeypatch):
    write(tmp_path / "owner" / "name", WEIGHTS[0])
    monkeypatch.chdir(tmp_path)
    assert ModelFolder("owner/name").repository is None
    assert ModelFolder("owner/other").repository == "owner/other"


@pytest.mark.parametrize(
    "path", ["models", "./owner/name", "/owner/name", "owner/name/vae", "~/name", "a b/c"]
)
def test_what_is_no_folder_and_no_id_is_refused(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NoModel, match="there is no folder .* is no id such as OWNER/NAME"):
        ModelFolder(path).config()


def test_a_pipeline_names_its_subfolders(tmp_path):
    for name in ("vae", "unet"):
        write(tmp_path / name)
    with pytest.raises(NoModel, match="has no config.json; `subfolder` may be unet or vae"):
        ModelFolder(str(tmp_path)).config()
    with pytest.raises(NoModel, match="/text has no config.json"):
        ModelFolder(str(tmp_path), "text").config()


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    write(tmp_path)
    with pytest.raises(NoModel, match="config.json is a file: `path` is the folder that has config.json"):
        ModelFolder(str(tmp_path / "config.json")).config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "names no class"),
        ("{}", "names no class"),
        ('{"_class_name": 1}', "names no"),
    ],
)
def test_a_config_that_is_none_is_refused(text, message, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(NoModel, match=f"config.json {message}"):
        ModelFolder(str(tmp_path)).config()


def test_only_what_is_missing_is_downloaded(hub):
    repository, log = hub
    write(repository / "vae", *WEIGHTS[2:])
    folder = ModelFolder("owner/name", "vae")
    assert not folder.weights().is_file()
    for _ in range(2):
        assert folder.config() == CONFIG
        folder.fetch()
        assert folder.weights().name == "diffusion_pytorch_model.bin" and folder.weights().is_file()
    tried = [f"vae/{name}" for name in WEIGHTS[:2]]
    assert log == ["vae/config.json", *tried, "vae/diffusion_pytorch_model.bin"]


def test_the_files_of_an_index_are_downloaded_too(hub):
    repository, log = hub
    shards = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    write(repository, *shards)
    index = repository / WEIGHTS[1]
    index.write_text(json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}}))
    folder = ModelFolder("owner/name")
    folder.fetch()
    assert log == [WEIGHTS[0], WEIGHTS[1], *shards]
    assert folder.weights().name == WEIGHTS[1] and (folder.weights().parent / shards[1]).is_file()
    (folder.weights().parent / shards[0]).unlink()  # as after a download that was interrupted
    folder.fetch()
    assert log[4:] == shards[:1]


def test_a_repository_without_weights_or_config_says_so(hub):
    repository, _ = hub
    repository.mkdir()
    with pytest.raises(NoModel, match="owner/name at Hugging Face has no config.json"):
        ModelFolder("owner/name").config()
    with pytest.raises(NoModel, match="owner/name/vae at Hugging Face has none of diffusion_pytorch_model"):
        ModelFolder("owner/name", "vae").fetch()


def test_offline_the_cache_serves_and_what_it_lacks_is_named(cache, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = ModelFolder("owner/name", "vae")
    for ask, name in ((folder.config, "config.json"), (folder.fetch, WEIGHTS[0])):
        with pytest.raises(
            OfflineError, match=f"offline, and owner/name/vae/{name} is neither .*hf download"
        ):
            ask()
    write(cache / "vae", WEIGHTS[0])
    folder.fetch()
    assert folder.config() == CONFIG and folder.weights() == cache / "vae" / WEIGHTS[0]
    with pytest.raises(OfflineError):
        ModelFolder("owner/name", "vae", revision="v2").config()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (LocalEntryNotFoundError("check your connection"), "could not be downloaded: check your connection"),
        (
            RepositoryNotFoundError("401", response=Response()),
            "no folder owner/name, .* no repository owner/n",
        ),
    ],
)
def test_a_failed_download_names_the_folder_and_the_repository(error, message, cache, monkeypatch):
    def download(*_, **__):
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(NoModel, match=f"there is no folder owner/name, .*{message}|{message}"):
        ModelFolder("owner/name").config()
