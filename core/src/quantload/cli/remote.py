"""Headers of safetensors files on the hub, without downloading the files."""

from __future__ import annotations

from pathlib import Path

from quantload.checkpoint.index import read_index
from quantload.checkpoint.locate import is_index, locate_weights
from quantload.errors import CheckpointError
from quantload.quantizers.spec import Header


def remote_contents(
    repo_id: str, revision: str | None, subfolder: str | None, variant: str | None
) -> tuple[dict[str, int], dict[str, Header]] | None:
    """File sizes and tensor headers; None where the hub cannot or may not be asked.

    Raises:
        CheckpointError: the repository has no safetensors weights, or its headers
            cannot be fetched.
    """
    import huggingface_hub
    from huggingface_hub import constants, errors

    if constants.HF_HUB_OFFLINE:
        return None
    api = huggingface_hub.HfApi()
    prefix = f"{subfolder.strip('/')}/" if subfolder else ""
    try:
        info = api.model_info(repo_id, revision=revision, files_metadata=True)
        sizes = {
            file.rfilename.removeprefix(prefix): file.size or 0
            for file in info.siblings or ()
            if file.rfilename.startswith(prefix)
        }
        located = locate_weights([n for n in sizes if "/" not in n], repo_id, variant=variant)
        if located is None:
            return None
        names = [located]
        if is_index(located):
            index = huggingface_hub.hf_hub_download(repo_id, prefix + located, revision=revision)
            names = sorted(set(read_index(Path(index)).values()))
        headers: dict[str, Header] = {}
        for name in names:
            found = api.parse_safetensors_file_metadata(repo_id, prefix + name, revision=revision)
            for tensor, entry in found.tensors.items():
                begin, end = entry.data_offsets
                headers[tensor] = Header(entry.dtype, tuple(entry.shape), end - begin)
    except (errors.HTTPError, errors.SafetensorsParsingError, OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{repo_id}: its headers cannot be fetched from the hub "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0]})"
        ) from error
    return {name: sizes[name] for name in names}, headers
