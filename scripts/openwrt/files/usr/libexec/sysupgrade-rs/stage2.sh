# Sourced by stage2 and do_stage2 as the last of /lib/upgrade/*.sh: what the stock flasher would do to
# the running system, done to the other slot instead.
#
# Programs that do not call /sbin/sysupgrade, but tell procd (`ubus call system sysupgrade`), get here:
# procd has handed process 1 to `upgraded`, which feeds the watchdog, runs stage2, and reboots when
# that ends. stage2 has stopped everything, and calls platform_pre_upgrade while the root and the data
# partition are still mounted. The whole upgrade is done there, and stage2 never gets to its pivot.
#
# Power may go, or the watchdog bite, at any point: until the tool commits, the running system boots.

platform_pre_upgrade() {
	if [ -n "${UPGRADE_BACKUP:-}" ]; then
		sysupgrade-rs --no-reboot -f "$UPGRADE_BACKUP" "$1"
	else
		sysupgrade-rs --no-reboot -n "$1"
	fi
	code=$?
	# Services are gone and shells are dead: refused or done, the way on is a reboot.
	[ "$code" = 0 ] || [ "$code" = 3 ] || v "Not upgraded (sysupgrade-rs: $code), rebooting as it was."
	sync
	exit "$code"
}

# Reached only by a stage2 that skips the function above. Nothing writes over the running system.
platform_do_upgrade() {
	v "Not upgraded: the way to the other slot was not taken."
	return 1
}

default_do_upgrade() {
	platform_do_upgrade
}

# The tool has put the configuration where the new system looks for it.
platform_copy_config() {
	return 0
}
