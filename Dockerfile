# The demo as a container, with a model of its own or asking a server:
#
#     docker build -t iepile-demo .
#     docker run -p 7860:7860 iepile-demo --base_url http://host.docker.internal:8000/v1
#     docker run -p 7860:7860 -v models:/home/user/.cache iepile-demo --model_name_or_path Qwen/Qwen3-0.6B
#
# On a GPU add `--gpus all`. For a CPU, a build of PyTorch without CUDA is much smaller: give pip's arguments for it, from
# pytorch.org, as `--build-arg TORCH="torch --index-url ..."`.
FROM python:3.12-slim

ARG TORCH=torch
RUN useradd --create-home user && install --directory --owner user /home/user/.cache
RUN pip install --no-cache-dir ${TORCH}
COPY . /tmp/source
RUN pip install --no-cache-dir "/tmp/source[mcp,endpoint]" && rm -r /tmp/source
USER user
WORKDIR /home/user
EXPOSE 7860
ENTRYPOINT ["iepile", "demo", "--server_name", "0.0.0.0", "--server_port", "7860"]
