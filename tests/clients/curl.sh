#!/bin/bash
# Tries one sample model with curl: health, metadata, calls in JSON and raw, and errors.
# usage: curl.sh ADDRESS MODEL INPUT DATATYPE VERSION…
set -euo pipefail
url="http://$1" model=$2 input=$3 datatype=$4
shift 4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
calls=0

# ask STATUS TEXT PATH [OPTIONS OF CURL]: fails unless the answer has this status, and this text in its body.
ask() {
    local status=$1 text=$2 path=$3
    shift 3
    local actual
    actual=$(curl -sS --max-time 20 -o "$work/body" -D "$work/head" -w '%{http_code}' "$@" "$url$path")
    if [ "$actual" != "$status" ] || ! grep -qaF -- "$text" "$work/body"; then
        echo "$path: $actual, not $status with $text: $(cat "$work/body")" >&2
        exit 1
    fi
    calls=$((calls + 1))
}

header() { tr -d '\r' <"$work/head" | sed -n "s/^$1: //Ip"; }

flower='"shape":[1,4]'
data='"data":[5.1,3.5,1.4,0.2]'
tensor="{\"name\":\"$input\",\"datatype\":\"$datatype\",$flower,$data}"

ask 200 '{"live":true}' /v2/health/live
ask 200 '"ready":true' /v2/health/ready
ask 200 '"name":"kitserve"' /v2
for version in "" "$@"; do
    path=/v2/models/$model${version:+/versions/$version}
    ask 200 '"ready":true' "$path/ready"
    ask 200 "{\"name\":\"$input\",\"datatype\":\"$datatype\"," "$path"
    ask 200 '"model_name"' "$path/infer" -d "{\"inputs\":[$tensor]}" -H "X-Request-Id: flower-$version"
    [ "$(header X-Request-Id)" = "flower-$version" ]
    [ "$(header ModelKit-Version)" = "$1" ]
    # The same call with raw tensors, for the first output.
    output=$(sed 's/.*"outputs":\[{"name":"\([^"]*\)".*/\1/' "$work/body")
    wanted="\"outputs\":[{\"name\":\"$output\",\"parameters\":{\"binary_data\":true}}]"
    json="{\"inputs\":[{\"name\":\"$input\",\"datatype\":\"$datatype\",$flower,"
    if [ "$datatype" = FP32 ]; then
        raw='\x33\x33\xa3\x40\x00\x00\x60\x40\x33\x33\xb3\x3f\xcd\xcc\x4c\x3e' size=16
    else
        raw='\x66\x66\x66\x66\x66\x66\x14\x40\x00\x00\x00\x00\x00\x00\x0c\x40' size=32
        raw+='\x66\x66\x66\x66\x66\x66\xf6\x3f\x9a\x99\x99\x99\x99\x99\xc9\x3f'
    fi
    json+="\"parameters\":{\"binary_data_size\":$size}}],$wanted}"
    printf '%s'"$raw" "$json" >"$work/call"
    ask 200 '"binary_data_size"' "$path/infer" --data-binary "@$work/call" \
        -H "Inference-Header-Content-Length: ${#json}" -H 'Content-Type: application/octet-stream'
    [ "$(header Content-Type)" = application/octet-stream ]
    [ "$(header Inference-Header-Content-Length)" -lt "$(wc -c <"$work/body")" ]
    classes="\"outputs\":[{\"name\":\"$output\",\"parameters\":{\"classification\":1}}]"
    ask 200 ':0' "$path/infer" -d "{\"inputs\":[$tensor],$classes}"
done

ask 404 'no model is named nothing' /v2/models/nothing/infer -d "{\"inputs\":[$tensor]}"
ask 404 "model $model has no version v9 that is served" "/v2/models/$model/versions/v9"
ask 400 "input '$input' is missing" "/v2/models/$model/infer" -d "{\"inputs\":[${tensor/$input/other}]}"
ask 400 "input '$input': shape [1, 5] needs 5 elements, data has 4" "/v2/models/$model/infer" \
    -d "{\"inputs\":[${tensor/1,4/1,5}]}"
ask 400 'the body is not JSON' "/v2/models/$model/infer" -d '{"inputs":'
ask 400 "unknown output 'colour'" "/v2/models/$model/infer" \
    -d "{\"inputs\":[$tensor],\"outputs\":[{\"name\":\"colour\"}]}"
ask 405 'use POST' "/v2/models/$model/infer"
ask 415 "Content-Encoding 'br' is none of gzip, deflate and identity" "/v2/models/$model/infer" \
    -d "{\"inputs\":[$tensor]}" -H 'Content-Encoding: br'
echo "$calls calls"
