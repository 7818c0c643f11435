#!/bin/bash
# Make the folder (about 40 MB) that the check needs on a machine without a network: the tokenizer, and the installed
# releases of what it imports, for its Python and CUDA:
#
#   PYTHON_VERSION=3.12 CUDA=130 bash benchmarks/gpu/bundle.sh path/to/SmolLM2-135M-Instruct .gpu
set -euo pipefail
tokenizer=$1 folder=$2 python=${PYTHON:-python}
mkdir -p "$folder"/{wheels,site,tokenizer}
cp "$tokenizer"/{tokenizer.json,tokenizer_config.json,chat_template.jinja} "$folder/tokenizer"

platforms=()
for version in 2_39 2_34 2_31 2_28 2_27 2_24 2_17; do platforms+=(--platform "manylinux_${version}_x86_64"); done
get() { # folder, package: the installed release of it
    "$python" -m pip download --quiet --no-deps --only-binary=:all: --implementation cp \
        --python-version "${PYTHON_VERSION:-3.12}" "${platforms[@]}" --platform manylinux2014_x86_64 --dest "$1" \
        "$2==$("$python" -c "from importlib.metadata import version; print(version('$2'))")"
}
for package in accelerate click datasets dill docstring-parser filelock hf-xet httpcore2 httpx2 huggingface_hub idna \
    jsonargparse llguidance multiprocess networkx orjson peft rapidfuzz rich sentencex transformers trl truststore \
    typeshed_client; do
    get "$folder/wheels" "$package"
done
cp "$(dirname "$0")/older_torch.py" "$folder/site/sitecustomize.py"
# Of bitsandbytes only Python and the library for that CUDA
get /tmp/iepile-bitsandbytes bitsandbytes
unzip -q -o /tmp/iepile-bitsandbytes/bitsandbytes-*.whl -d "$folder/site"
find "$folder/site" -name 'libbitsandbytes_*' ! -name "*cuda${CUDA:-130}*" -delete
du -sm "$folder"/*
