# Which slot boots: the U-Boot side of a switch that counts nothing,
#
#   [boot.layout]
#   variable = "boot_part"
#   values = ["1", "2"]
#   absent = "1"
#
# For a builder as order.cmd is, with the same `boot_slot` in U-Boot's default environment.
#
#   boot_part            2: slot b, anything else: slot a
#
# A slot that does not load makes way for the other one, this time. There are no tries: a new system that
# loads and dies early is booted again and again. Where U-Boot can save its environment, bootcount.cmd is
# the better one.

# The environment would hide them.
for try_name in try_order try_slot try_args; do setenv ${try_name}; done

try_order="a b"
if test "${boot_part}" = 2; then try_order="b a"; fi

for try_slot in ${try_order}; do
  try_args="sysupgrade.slot=${try_slot} panic=1"
  echo "boot: slot ${try_slot}, by boot_part"
  run boot_slot
  echo "boot: slot ${try_slot} does not load"
done

echo "boot: nothing loads, starting over in 10 seconds"
sleep 10
reset
