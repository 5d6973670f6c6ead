# shellcheck shell=bash
# To be read at the top by scripts that are called with [FOLDER] [PROGRAM], from the root of the repository: `folder` is where what
# they install and write lies, `program` is `longtake`.
folder=${1:-target/clients}
program=${2:-target/release/longtake}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

# environment NAME PACKAGES...: a Python environment in the folder, with these packages; the one that is there is gone on with.
environment() {
  local at=$folder/$1
  shift
  [ -x "$at/bin/python" ] || python3 -m venv "$at"
  "$at/bin/pip" install -q "$@"
}

# draw VIDEO TOKENS: a video that hides a symbol; `question` asks for it, `answer` is right.
draw() {
  local told
  told=$("$program" demo --tokens "$2" --seed 3 -o "$1" --json 2>/dev/null)
  field() { printf '%s' "$told" | python3 -c "import json,sys; print(json.load(sys.stdin)['$1'])"; }
  question=$(field question)
  answer=$(field expected)
}

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
