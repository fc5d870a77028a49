# shellcheck shell=bash disable=SC2154,SC2034 # variables of scripts/bench
# What DESIGN, section 9, promises beside what was measured.

# promise WHAT UNIT PROMISED KEY [DIVISOR]: the median that was kept under a key; nothing if it was not measured.
promise() {
    local values
    values=$(kept "$4")
    [ -n "$values" ] || return 0
    awk -v what="$1" -v unit="$2" -v promised="$3" -v values="$values" -v divisor="${5-1}" 'BEGIN {
        split(values, v)
        for (i in v) v[i] /= divisor
        spread = v[2] == v[3] ? "" : sprintf("(%.2f - %.2f)", v[2], v[3])
        printf "%-46s %8.2f %-8s %8.2f %-19s %6.2f\n", what, promised, unit, v[1], spread,
            (promised > 0 ? v[1] / promised : v[1])
    }'
}

# The larger one of dd and of the program's own pass over the image, onto memory.
limit_in_memory() {
    local dd verify
    dd=$(kept "install.ram.$middle.plain.dd")
    verify=$(kept verify.plain.seconds)
    if [ -n "$dd" ] && [ -n "$verify" ]; then
        awk -v dd="${dd%% *}" -v verify="${verify%% *}" 'BEGIN { print (dd > verify ? dd : verify) }'
    fi
}

promises() {
    local limit mib smallest
    title "Section 9 of DESIGN"
    printf '%-46s %8s %-8s %8s %-19s %6s\n' what promised '' measured '' ratio
    promise "install, $middle MiB onto 50 MB/s" 'x dd' 1.05 "install.loop50.$middle.plain.ratio"
    promise 'install, 16 MiB, 20 MB/s, 10 % of a core' 'x dd' 1.05 install.slow.16.plain.ratio
    limit=$(limit_in_memory)
    [ -z "$limit" ] || promise 'install onto memory / dd or one SHA-256 pass' x 1.3 \
        "install.ram.$middle.plain.seconds" "$limit"
    promise 'processor, install' ms/MiB 1.1 "install.ram.$middle.plain.processor"
    promise 'processor, install, deflated' ms/MiB 4.5 "install.ram.$middle.deflated.processor"
    promise 'processor, verify' ms/MiB 0.75 verify.plain.processor
    smallest=$(kept "memory.plain.${mibs[0]}")
    for mib in "${mibs[@]}"; do
        promise "peak memory, $mib MiB" MiB 4 "memory.plain.$mib"
    done
    [ -z "$smallest" ] || promise "peak memory, $mib MiB / ${mibs[0]} MiB" x 1.1 "memory.plain.$mib" "${smallest%% *}"
    promise 'peak memory, deflated' MiB 6 memory.deflated
    promise "smallest memory group, $middle MiB" KiB 4096 memory.group.plain
    promise 'written, identical image' MiB 0 "install.loop.$middle.identical.written" 1048576
    promise 'written, 5 % changed / the changed pages' x 1.05 "install.loop.$middle.5-%-of-pages-changed.written" "$changed"
    promise 'static program' KiB 1024 size 1024
    promise '--help' ms 2 command.help.time
    promise '--help, memory' MiB 2.5 command.help.memory 1024
    promise status ms 2 command.status.time
    promise 'status, memory' MiB 2.5 command.status.memory 1024
    promise inspect ms 5 command.inspect.time
    promise 'system calls' 'a MiB' 30 calls.plain
    promise 'mean write' KiB 64 writes.plain
    promise 'config merge' s 2 config.merge.seconds
    promise 'config merge, memory' MiB 8 config.merge.memory 1024
}

# All that was kept: {machine, numbers: [{key, unit, median, least, most, rounds}]}.
as_json() {
    jq -R -n --arg revision "$revision" --arg model "$model" --arg kernel "$(uname -r)" '
        def median: sort | (.[(length - 1) / 2 | floor] + .[length / 2 | floor]) / 2;
        {
            machine: {revision: $revision, processor: $model, kernel: $kernel},
            numbers: [inputs | split("\t") | (.[3] | split(" ") | map(tonumber)) as $rounds |
                {key: .[0], unit: .[1], promised: (.[2] | tonumber? // null), median: ($rounds | median),
                    least: ($rounds | min), most: ($rounds | max), rounds: $rounds}]
        }' < "$results"
}
