#!/usr/bin/env bash
# Starts a whole Kubernetes of one node in network, process, mount, host name, IPC and cgroup namespaces of its own. Nothing
# of it is seen outside: the addresses of pods and Services exist only in that network namespace, and killing the namespaces'
# first process ends all of it.
. "$(dirname "$0")/lib.sh"

if [ -f "$run/pid" ] && kill -0 "$(cat "$run/pid")" 2>/dev/null; then fail "a cluster is up already in $run"; fi
"$here/down.sh"
mkdir -p "$run/log"

# A cgroup of its own in every hierarchy, so that all of the cluster's processes can be found and removed.
cgroup=weft-$(basename "$(mktemp -u)")
while IFS=: read -r _ controllers _; do
  case $controllers in
    "") directory=/sys/fs/cgroup/unified ;;
    name=*) directory=/sys/fs/cgroup/${controllers#name=} ;;
    *) directory=/sys/fs/cgroup/$controllers ;;
  esac
  mkdir "$directory/$cgroup" 2>/dev/null || continue
  if [ "$controllers" = cpuset ]; then
    cat "$directory/cpuset.cpus" >"$directory/$cgroup/cpuset.cpus"
    cat "$directory/cpuset.mems" >"$directory/$cgroup/cpuset.mems"
  fi
  echo "${controllers:-unified} $directory/$cgroup" >>"$run/cgroups"
done </proc/self/cgroup

# The shell puts itself into them before it becomes the parent of the namespaces' first process.
export WEFT_KUBERNETES=$cache WEFT_CLUSTER=$run
setsid bash -c '
  while read -r _ directory; do echo $$ >"$directory/cgroup.procs"; done <"$1/cgroups"
  echo $$ >"$1/parent"
  exec unshare --net --pid --mount --uts --ipc --cgroup --fork --kill-child bash "$2"' \
  up "$run" "$here/node.sh" </dev/null >"$run/log/node.log" 2>&1 &

first_process() {
  local children
  children=$(cat "/proc/$(cat "$run/parent")/task/$(cat "$run/parent")/children") && [ -n "$children" ] &&
    echo "${children%% *}" >"$run/pid"
}
await 10 "the cluster's first process" first_process

is_ready_or_dead() { [ -f "$run/ready" ] || ! kill -0 "$(cat "$run/pid")"; }
await 120 "a ready node (see $run/log)" is_ready_or_dead
[ -f "$run/ready" ] || {
  tail -20 "$run/log/node.log" >&2
  fail "the cluster ended while it started (see $run/log)"
}
