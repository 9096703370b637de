#!/bin/sh
# Builds what tests of stacks need of Kubernetes into DIR (default build/kubernetes):
# controlplane (etcd, kube-apiserver, kube-controller-manager, kube-scheduler) and kwok
# (simulated nodes). It takes minutes, once: what is there for the same go.sum stays.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dir=${1:-$here/../../build/kubernetes}
kubernetes=v1.36.3
kwok=v0.8.0
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
want=$(cat "$here/go.sum" "$here/controlplane/main.go" "$0" | sha256sum)
if [ -x "$dir/controlplane" ] && [ -x "$dir/kwok" ] && [ "$(cat "$dir/stamp" 2>/dev/null)" = "$want" ]; then exit 0; fi
v=k8s.io/component-base/version
flags="-s -w -X $v.gitVersion=$kubernetes -X $v.gitMajor=1 -X $v.gitMinor=36 -X $v.gitTreeState=clean"
cd "$here"
CGO_ENABLED=0 go build -mod=mod -p "${BUILD_JOBS:-2}" -trimpath -ldflags "$flags" -o "$dir/controlplane" ./controlplane
CGO_ENABLED=0 GOFLAGS=-trimpath GOBIN="$dir" go install -p "${BUILD_JOBS:-2}" -ldflags '-s -w' sigs.k8s.io/kwok/cmd/kwok@$kwok
# kwok comes without its stages: they are files of its module.
module=$(cd / && go mod download -json sigs.k8s.io/kwok@$kwok | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
: > "$dir/stages.yaml"
for f in node/fast/node-initialize.yaml node/heartbeat-with-lease/node-heartbeat-with-lease.yaml \
  pod/fast/pod-ready.yaml pod/fast/pod-complete.yaml pod/fast/pod-delete.yaml; do
  cat "$module/kustomize/stage/$f" >> "$dir/stages.yaml"
  printf '\n---\n' >> "$dir/stages.yaml"
done
printf '%s' "$want" > "$dir/stamp"
