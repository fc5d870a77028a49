# shellcheck shell=bash disable=SC2154,SC2034 # variables of scripts/bench
# Installs, against dd of the same bytes onto the same medium in the same round.

# The program as a router runs it.
install() { "$program" --root router --no-reboot --progress=none --json "$@" > answer.json; }

install_from_pipe() { install - < <(cat "$1"); }

names() {
    case $1 in
        ram) echo 'file in memory' ;;
        disk) echo 'file on the disk' ;;
        loop) echo 'loop device' ;;
        loop50) echo 'loop device, 50 MB/s' ;;
        slow) echo '20 MB/s, 10 % of a core' ;;
    esac
}

install_title() {
    title "Installs. Medians of $rounds, least and most; processor: ms per MiB; device: MiB written and read"
    printf '%-24s %5s  %-22s %-23s %9s %9s %-19s %s\n' medium MiB image 'ratio to dd' seconds dd processor device
}

# measure MEDIUM MIB WHAT IMAGE ROOT OLD [WAY]: from the slot that holds OLD.
measure() {
    local medium=$1 mib=$2 what=$3 image=$4 root=$5 old=$6 way=${7-install} round key before after
    has_medium "$medium" || return 0
    key=install.$medium.$mib.${what// /-}
    medium "$medium" "$mib"
    rm -f ./*.rounds
    for ((round = 0; round < rounds; round++)); do
        hold "$old" "$mib"
        on_medium dd if="$root" of="$slot" bs=1M conv=notrunc,fsync status=none
        echo "$wall" >> dd.rounds
        reset_router
        hold "$old" "$mib"
        read -ra before < <(transferred)
        on_medium "$way" "$image"
        read -ra after < <(transferred)
        echo "$wall" >> seconds.rounds
        divide "$wall" "$(tail -n 1 dd.rounds)" >> ratio.rounds
        divide "$processor" "$(divide "$mib" 1000)" >> processor.rounds
        answer peak_memory >> memory.rounds
        echo $((after[0] - before[0])) >> read.rounds
        echo $((after[1] - before[1])) >> written.rounds
        answer written >> claimed.rounds
        cmp -n "$((mib << 20))" "$root" "$slot"
    done
    keep "$key.ratio" 'x dd' - ratio.rounds
    keep "$key.seconds" s - seconds.rounds
    keep "$key.dd" s - dd.rounds
    keep "$key.processor" 'ms/MiB' - processor.rounds
    keep "$key.memory" bytes - memory.rounds
    keep "$key.written" bytes - claimed.rounds
    if [ "$slot" = "$loop" ]; then
        keep "$key.device-read" bytes - read.rounds
        keep "$key.device-written" bytes - written.rounds
    fi
    awk -v medium="$(names "$medium")" -v mib="$mib" -v what="$what" -v ratio="$(spread ratio.rounds)" \
        -v seconds="$(spread seconds.rounds)" -v dd="$(spread dd.rounds)" \
        -v processor="$(spread processor.rounds)" -v read="$(spread read.rounds)" \
        -v written="$(spread written.rounds)" -v device="${key##*loop*}" 'BEGIN {
        split(ratio, r); split(seconds, s); split(dd, d); split(processor, p); split(read, i); split(written, o)
        printf "%-24s %5d  %-22s %6.2f (%5.2f - %5.2f) %9.3f %9.3f %5.2f (%4.2f - %4.2f) ", medium, mib, what,
            r[1], r[2], r[3], s[1], d[1], p[1], p[2], p[3]
        if (o[1] + i[1] > 0) printf " %.1f + %.1f", o[1] / 1048576, i[1] / 1048576
        print ""
    }'
    [ "$slot" = "$loop" ] || rm -f "$slot"
}
