# Which slot boots: the U-Boot side of a switch with a counter, counted by U-Boot itself (it was built with
# CONFIG_BOOTCOUNT_LIMIT and CONFIG_BOOTCOUNT_ENV),
#
#   [boot.layout]
#   variable = "active"
#   values = ["a", "b"]
#   absent = "a"
#   [boot.layout.counter]
#   armed = "upgrade_available"
#   count = "bootcount"
#   limit = "bootlimit"
#   fallback = "altbootcmd"
#
# For a builder as order.cmd is, with the same `boot_slot` in U-Boot's default environment. `bootcmd` and
# `altbootcmd` both source this script.
#
#   active               the slot that boots: b, anything else: a
#   upgrade_available    1: it is on trial; U-Boot raises `bootcount` and saves it, before it comes here
#   bootcount            boots so far, this one included
#   bootlimit            so many are allowed; after them U-Boot runs `altbootcmd`
#
# When they are used up the other slot boots, and the variables stay as they are until the system in it
# has read them. U-Boot does not look whether its count could be saved, and would boot a system that dies
# early for ever: so it is saved here once more, and the slot passed over if `saveenv` fails. A slot that
# does not load makes way for the other one.

# The environment would hide them.
for try_name in try_order try_slot try_rest try_said try_args; do setenv ${try_name}; done

if test "${active}" = b; then
  try_slot=b
  try_order="b a"
  try_rest="a b"
else
  try_slot=a
  try_order="a b"
  try_rest="b a"
fi

try_said="good"
if test "${upgrade_available}" = 1; then
  # As U-Boot compares; without a limit it never stops.
  if test "${bootcount}" -gt "${bootlimit}"; then
    echo "boot: slot ${try_slot} passed over, its tries are used up"
    try_order=${try_rest}
  elif saveenv; then
    try_said="on trial, try ${bootcount} of ${bootlimit}"
  else
    echo "boot: slot ${try_slot} passed over, its try cannot be counted"
    try_order=${try_rest}
  fi
fi

for try_slot in ${try_order}; do
  try_args="sysupgrade.slot=${try_slot} panic=1"
  echo "boot: slot ${try_slot}, ${try_said}"
  run boot_slot
  echo "boot: slot ${try_slot} does not load"
  try_said="as a last resort"
done

echo "boot: nothing loads, starting over in 10 seconds"
sleep 10
reset
