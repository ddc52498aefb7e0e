#!/usr/bin/env bash
# Ends the cluster with every process in it, then removes its cgroups and files. Nothing happens where there is none.
. "$(dirname "$0")/lib.sh"

[ -d "$run" ] || exit 0
is_gone() { ! kill -0 "$(cat "$run/$1")"; }
for process in pid parent; do
  [ -f "$run/$process" ] || continue
  kill -KILL "$(cat "$run/$process")" 2>/dev/null || true
  await 10 "the end of the cluster's processes" is_gone "$process"
done
is_removed() { find "$1" -depth -type d -exec rmdir {} + 2>/dev/null || [ ! -d "$1" ]; }
if [ -f "$run/cgroups" ]; then
  while read -r _ directory; do await 10 "the removal of $directory" is_removed "$directory"; done <"$run/cgroups"
fi
# Mounts of dead namespaces vanish a moment after the last process.
await 10 "the removal of $run" rm -rf "$run"
