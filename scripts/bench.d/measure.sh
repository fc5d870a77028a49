# shellcheck shell=bash disable=SC2154,SC2034 # variables of scripts/bench
# Rounds, spreads, and the one file that every number ends in: a line each, columns separated by tabs:
#
#   key    unit    what DESIGN promises, or -    the value of each round, separated by spaces

# keep KEY UNIT PROMISED FILE: the values are the lines of a file.
keep() { printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$(paste -s -d ' ' "$4")" >> "$results"; }

# keep_one KEY UNIT PROMISED VALUE
keep_one() { printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" >> "$results"; }

# Median, least and most of the numbers in a file, one a line.
spread() {
    sort -g "$1" | awk '{ value[NR] = $1 }
        END { half = int((NR + 1) / 2); print (value[half] + value[NR + 1 - half]) / 2, value[1], value[NR] }'
}

# The same of what was kept under a key; nothing if there is none.
kept() {
    awk -F '\t' -v key="$1" '$1 == key { print $4 }' "$results" | tr ' ' '\n' > kept.rounds
    [ ! -s kept.rounds ] || spread kept.rounds
}

# Runs a command; leaves its seconds in `wall`, and those of the processor in `processor`.
timed() {
    local before=${EPOCHREALTIME/./} TIMEFORMAT='%3U %3S' user kernel code=0
    { time "$@" 2> errors; } 2> times.out || code=$?
    wall=$((${EPOCHREALTIME/./} - before))
    wall=$(awk -v wall=$wall 'BEGIN { printf "%.6f", wall / 1e6 }')
    if [ $code != 0 ]; then
        echo "$* ended with $code:" >&2
        cat errors answer.json >&2
        exit 1
    fi
    read -r user kernel < times.out
    processor=$(awk -v user="$user" -v kernel="$kernel" 'BEGIN { print user + kernel }')
}

divide() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.6g\n", (b > 0 ? a / b : 0) }'; }

title() { printf '\n%s\n' "$*"; }

# --- Limits

# Directories of the control groups of this run, by controller. A version 1 hierarchy has each somewhere else.
declare -A group

# The directory where a controller's groups are made; nothing if the machine does not have it.
hierarchy() {
    awk -v controller="$1" '$3 == "cgroup" && ("," $4 ",") ~ "," controller "," { print $2; exit }' /proc/mounts
}

# The directory of version 2, if this controller is one of its.
unified() {
    local root
    root=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
    if [ -n "$root" ] && grep -qw "$1" "$root/cgroup.controllers"; then
        echo "$root"
    fi
}

make_groups() {
    local controller root
    for controller in cpu memory io; do
        root=$(unified $controller)
        if [ -n "$root" ]; then
            echo "+$controller" > "$root/cgroup.subtree_control" || continue
        elif [ $controller = io ]; then
            continue # of version 1 the root's is used: see throttle
        else
            root=$(hierarchy $controller)
            [ -n "$root" ] || continue
        fi
        group[$controller]=$root/sysupgrade-bench.$$
        mkdir -p "${group[$controller]}" || unset "group[$controller]"
    done
}

remove_groups() {
    local controller
    for controller in "${!group[@]}"; do
        rmdir "${group[$controller]}" 2> /dev/null || true
    done
}

# Runs a command inside of these controllers' groups.
inside() (
    for controller in $1; do
        [ -z "${group[$controller]-}" ] || echo "$BASHPID" > "${group[$controller]}/cgroup.procs"
    done
    shift
    "$@"
)

# Gives the group of the processor so many percent of one; 100: no limit.
limit_processor() {
    local quota=$(($1 * 1000))
    [ "$1" != 100 ] || quota=-1
    if [ -e "${group[cpu]}/cpu.max" ]; then
        echo "${quota/-1/max} 100000" > "${group[cpu]}/cpu.max"
    else
        echo 100000 > "${group[cpu]}/cpu.cfs_period_us"
        echo $quota > "${group[cpu]}/cpu.cfs_quota_us"
    fi
}

# limit_memory BYTES
limit_memory() {
    if [ -e "${group[memory]}/memory.max" ]; then
        echo "$1" > "${group[memory]}/memory.max"
        [ ! -e "${group[memory]}/memory.swap.max" ] || echo 0 > "${group[memory]}/memory.swap.max"
    else
        # What an earlier command has left in the cache is still this group's.
        echo 0 > "${group[memory]}/memory.force_empty"
        echo "$1" > "${group[memory]}/memory.limit_in_bytes"
    fi
}

# throttle DEVICE BYTES: so many a second are written to it; 0: no limit.
#
# In version 1, what the cache writes back is the root group's, whoever wrote it, and the root group can
# be throttled as any other. In version 2 it is accounted to the writer's group.
throttle() {
    local number root
    number=$(lsblk -dno MAJ:MIN "$1" | tr -d ' ')
    root=$(hierarchy blkio)
    if [ -n "${group[io]-}" ]; then
        echo "$number wbps=$([ "$2" = 0 ] && echo max || echo "$2")" > "${group[io]}/io.max"
    elif [ -n "$root" ]; then
        echo "$number $2" > "$root/blkio.throttle.write_bps_device"
    fi
}

can_throttle() {
    local root
    root=$(hierarchy blkio)
    [ -n "${group[io]-}" ] || [ -w "${root:-/nowhere}/blkio.throttle.write_bps_device" ]
}
