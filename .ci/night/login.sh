#!/usr/bin/env bash
# Log in to a registry for this job alone: the credentials lie in the job's own folder, which the runner removes.
# Reads REGISTRY, REGISTRY_USER, REGISTRY_PASSWORD, RUNNER_TEMP, GITHUB_ENV.
set -euo pipefail
export DOCKER_CONFIG=$RUNNER_TEMP/compat-docker
mkdir -p "$DOCKER_CONFIG"
chmod 700 "$DOCKER_CONFIG"
docker login "$REGISTRY" --username "$REGISTRY_USER" --password-stdin <<<"$REGISTRY_PASSWORD"
echo "DOCKER_CONFIG=$DOCKER_CONFIG" >>"$GITHUB_ENV"
