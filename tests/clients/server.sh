# shellcheck shell=bash
# To be read by a script that has set `folder` and `program`.

# serve LOG FLAGS...: `longtake serve --demo` at a free port until the script ends; `server` is its process, `base` its address.
serve() {
  local log=$1
  shift
  rm -f "$folder/port"
  "$program" serve --demo --port 0 --port-file "$folder/port" "$@" 2>"$log" &
  server=$!
  trap 'kill $server' EXIT
  for _ in $(seq 300); do
    [ -s "$folder/port" ] && curl -sf "http://127.0.0.1:$(cat "$folder/port")/ready" >/dev/null && break
    sleep 0.1
  done
  base="http://127.0.0.1:$(cat "$folder/port")"
}
