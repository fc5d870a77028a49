# shellcheck shell=bash disable=SC2154,SC2034 # variables of scripts/bench
# A virtual router that runs slot a; slot b is what is written. Its root lies on the medium to measure, all
# else of it, and the image, in memory.

# make_router: in $ram/router.
make_router() {
    "$pack" keygen --secret secret --public public > fingerprint
    mkdir -p router/flash router/data router/proc router/run router/etc/config router/etc/sysupgrade-rs/keys
    cp public "router/etc/sysupgrade-rs/keys/$(tail -n 1 fingerprint)"
    echo 'VERSION_ID="1"' > router/etc/os-release
    echo /etc/config/ > router/etc/sysupgrade.conf
    echo 'config system' > router/etc/config/system
    echo 'sysupgrade.slot=a' > router/proc/cmdline
    grub-editenv factory create
    grub-editenv factory set 'BOOT_ORDER=A B' BOOT_A_LEFT=9 BOOT_B_LEFT=0
    echo kernel > kernel
}

# The state of the factory.
reset_router() {
    cp factory router/flash/env
    rm -rf router/data
    mkdir router/data
    cp kernel router/flash/kernel-b
}

# image NAME ROOT [OPTION...]
image() {
    "$pack" build --board virtual,router --version 2 --security 1 --part kernel=kernel --part "root=$2" \
        --key secret -o "$1" "${@:3}" > pack.out
}

# A number of the last answer.
answer() { jq ".. | objects | .$1? // empty" answer.json | head -n 1; }

# --- Media: a file in memory or on the disk, or a loop device over a file in memory.

# medium KIND MIB: what slot b lies on now. KIND: ram, disk, loop, loop50 (50 MB/s written), slow (20 MB/s, and
# one tenth of a processor).
medium() {
    kind=$1
    rate=0
    controllers=
    case $1 in
        ram) slot=$ram/slot ;;
        disk) slot=$disk/slot ;;
        *) slot=$loop ;;
    esac
    case $1 in
        loop50) rate=50000000 ;;
        slow)
            rate=20000000
            controllers=cpu
            ;;
    esac
    if [ "$slot" != "$loop" ]; then
        rm -f "$slot"
        truncate -s "$2M" "$slot"
    fi
    if [ "$rate" != 0 ] && [ -n "${group[io]-}" ]; then
        controllers+=' io'
    fi
    ln -sfn "$slot" router/flash/root-b
}

# Whether this machine has such a medium.
has_medium() {
    case $1 in
        ram | disk) true ;;
        loop) [ -n "$loop" ] ;;
        loop50) [ -n "$loop" ] && can_throttle ;;
        slow) [ -n "$loop" ] && can_throttle && [ -n "${group[cpu]-}" ] ;;
    esac
}

# hold FILE MIB: the slot holds that, on the medium and not in a cache.
hold() {
    local from=$1
    dd if="$from" of="$slot" bs=1M count="$2" conv=notrunc,fsync iflag=fullblock status=none
    forget "$slot"
}

# Drops what is cached of a file or device.
forget() { dd of="$1" oflag=nocache conv=notrunc,fdatasync count=0 status=none; }

# Runs a command with the limits of the medium; its time is in `wall` and `processor`.
on_medium() {
    [ "$rate" = 0 ] || throttle "$loop" "$rate"
    [ "$kind" != slow ] || limit_processor 10
    if [ -n "$controllers" ]; then
        timed inside "$controllers" "$@"
    else
        timed "$@"
    fi
    [ "$rate" = 0 ] || throttle "$loop" 0
}

# Bytes read and written of the loop device since the machine was started.
transferred() {
    if [ "$slot" = "$loop" ]; then
        awk '{ printf "%.0f %.0f\n", $3 * 512, $7 * 512 }' "/sys/block/${loop#/dev/}/stat"
    else
        echo 0 0
    fi
}
