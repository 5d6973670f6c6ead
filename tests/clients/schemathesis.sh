#!/usr/bin/env bash
# schemathesis over /openapi.json of `longtake serve --demo`: requests of every kind, well-formed and not, and no answer that the
# document does not tell of, above all no 5xx. Installs it into a folder of its own.
# usage: tests/clients/schemathesis.sh [FOLDER] [PROGRAM] [EXAMPLES]
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/clients/server.sh
examples=${3:-60}
environment venv schemathesis
serve "$folder/fuzzed.log" --slots --data "$folder/fuzzed" --parallel 4 --queue 64
# It leaves files where it runs.
(cd "$folder" && venv/bin/schemathesis run "$base/openapi.json" --url "$base" --max-examples "$examples" --request-timeout 120 \
  --phases examples,coverage,fuzzing --mode all --continue-on-failure --no-color \
  --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance \
  --suppress-health-check all --generation-deterministic)
kill -0 "$server" || { echo "the server is gone"; exit 1; }
if grep -q panicked "$folder/fuzzed.log"; then grep panicked "$folder/fuzzed.log"; exit 1; fi
