# shellcheck shell=bash disable=SC2154,SC2034 # variables of scripts/bench
# All that is not the time of an install: verifying, memory, system calls, the small commands.

verify() { "$program" --root router -T "$1" > /dev/null; }

# measure_verify KEY PROMISED MIB IMAGE
measure_verify() {
    local round
    rm -f ./*.rounds
    for ((round = 0; round < rounds; round++)); do
        timed verify "$4"
        echo "$wall" >> seconds.rounds
        divide "$processor" "$(divide "$3" 1000)" >> processor.rounds
    done
    keep "verify.$1.seconds" s - seconds.rounds
    keep "verify.$1.processor" ms/MiB "$2" processor.rounds
    read -ra seconds < <(spread seconds.rounds)
    spread processor.rounds | awk -v what="verify $1" -v seconds="${seconds[0]}" \
        '{ printf "%-34s %6.2f (%4.2f - %4.2f) ms/MiB %8.3f s\n", what, $1, $2, $3, seconds }'
}

# One pass of SHA-256 by another program, as a limit that is not ours.
measure_sha256() {
    local name=$1 round
    command -v "$1" > /dev/null || return 0
    rm -f ./*.rounds
    for ((round = 0; round < rounds; round++)); do
        timed "${@:3}" > /dev/null
        echo "$wall" >> seconds.rounds
        divide "$processor" "$(divide "$2" 1000)" >> processor.rounds
    done
    keep "sha256.$name.seconds" s - seconds.rounds
    read -ra seconds < <(spread seconds.rounds)
    spread processor.rounds | awk -v what="SHA-256 by $name" -v seconds="${seconds[0]}" \
        '{ printf "%-34s %6.2f (%4.2f - %4.2f) ms/MiB %8.3f s\n", what, $1, $2, $3, seconds }'
}

# In a group with so many KiB: does the install succeed, in a time that somebody would wait? Below that its
# own code is read again and again. Neither program nor image is in anybody's cache, so that what is
# needed of them is counted.
fits() {
    local code=0
    reset_router
    hold /dev/zero "$2"
    forget "$disk/program"
    forget "$disk/image"
    limit_memory $(($1 << 10))
    inside memory timeout -s KILL 20 "$disk/program" --root router --no-reboot --progress=none --json "$disk/image" \
        > answer.json 2> errors || code=$?
    # A program that was killed is gone when it has written back what it had to; until then it is busy.
    while read -r _ < "${group[memory]}/cgroup.procs"; do
        sleep 0.1
    done
    limit_memory $((1 << 30))
    [ $code = 0 ]
}

# smallest_group WHAT MIB IMAGE ROOT: found by bisection, to 64 KiB.
smallest_group() {
    local low=0 high=16384 middle
    medium "$([ -n "$loop" ] && echo loop || echo disk)" "$2"
    cp "$program" "$disk/program"
    cp "$3" "$disk/image"
    sync "$disk/program" "$disk/image"
    while [ $((high - low)) -gt 64 ]; do
        middle=$(((low + high) / 2))
        if fits $middle "$2"; then
            cmp -n "$(($2 << 20))" "$4" "$slot"
            high=$middle
        else
            low=$middle
        fi
    done
    keep_one "memory.group.$1" KiB - $high
    printf '%-34s %6d KiB\n' "smallest memory group, $1" $high
    rm -f "$disk/program" "$disk/image"
}

# count_calls WHAT MIB IMAGE OLD: of a whole install, by kind.
count_calls() {
    medium "$([ -n "$loop" ] && echo loop || echo ram)" "$2"
    reset_router
    hold "$4" "$2"
    timed strace -f -c -S calls -o calls "$program" --root router --no-reboot --progress=none --json "$3" > answer.json
    divide "$(awk '$NF == "total" { print $4 }' calls)" "$2" > calls.rounds
    reset_router
    hold "$4" "$2"
    timed strace -f -y -e trace=write,pwrite64 -o writes "$program" --root router --no-reboot --progress=none --json "$3" \
        > answer.json
    # Size and offset of each write to the slot.
    sed -n "s|.*pwrite64([0-9]*<$slot>.*, \([0-9]*\), \([0-9]*\)) .*|\1 \2|p" writes > sizes
    keep "calls.$1" 'a MiB' - calls.rounds
    [ ! -s sizes ] || keep_one "writes.$1" KiB - "$(awk '{ sum += $1 } END { printf "%.1f", sum / NR / 1024 }' sizes)"
    awk -v what="$1" -v calls="$(cat calls.rounds)" '
        { sum += $1; if ($2 % 4096) odd++; }
        END {
            printf "%-34s %6.1f calls a MiB; %d writes", what, calls, NR
            if (NR) printf " of %d KiB on average, %d at no page boundary", sum / NR / 1024, odd
            print ""
        }' sizes
    awk 'NR > 2 && $1 ~ /^[0-9]/ && $NF != "total" { name = $NF; count = $4; printf "    %s %d", name, count } NR > 9 { exit }
        END { print "" }' calls
}

# command KEY MOST-MS COMMAND...: time and memory of something that is over at once. The time has the fork
# and the execve of it in it.
small_command() {
    local key=$1 promised=$2 round run runs=20 memory
    shift 2
    rm -f ./*.rounds
    for ((round = 0; round < rounds; round++)); do
        run=${EPOCHREALTIME/./}
        for ((n = 0; n < runs; n++)); do
            "$@" > /dev/null
        done
        run=$((${EPOCHREALTIME/./} - run))
        divide $run $((runs * 1000)) >> milliseconds.rounds
        /usr/bin/time -o time.out -f %M "$@" > /dev/null
        cat time.out >> memory.rounds
    done
    keep "command.$key.time" ms "$promised" milliseconds.rounds
    keep "command.$key.memory" KiB - memory.rounds
    memory=$(spread memory.rounds | cut -d ' ' -f 3)
    spread milliseconds.rounds | awk -v key="$key" -v memory="$memory" \
        '{ printf "%-34s %6.2f (%4.2f - %4.2f) ms %8.2f MiB\n", key, $1, $2, $3, memory / 1024 }'
}

# peak KEY IMAGE: what the program says of itself (VmHWM).
peak() {
    local round
    rm -f ./*.rounds
    for ((round = 0; round < rounds; round++)); do
        reset_router
        truncate -s 0 "$slot"
        truncate -s "$(stat -c %s "${2%.root}.root")" "$slot"
        install "$2" 2> errors
        divide "$(answer peak_memory)" 1048576 >> memory.rounds
    done
    keep "memory.$1" MiB - memory.rounds
    spread memory.rounds | awk -v what="$1" '{ printf "%-34s %6.2f (%4.2f - %4.2f) MiB\n", what, $1, $2, $3 }'
}
