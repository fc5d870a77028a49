# Which slot boots: the U-Boot side of a switch with a counter, counted here,
#
#   [boot.layout]
#   variable = "active"
#   values = ["a", "b"]
#   absent = "a"
#   [boot.layout.counter]
#   armed = "upgrade_available"
#   count = "bootcount"
#   limit = "bootlimit"
#
# For a builder as order.cmd is, with the same `boot_slot` in U-Boot's default environment. Where U-Boot
# counts by itself (CONFIG_BOOTCOUNT_ENV) bootcount-env.cmd is the one: two would count each boot twice.
#
#   active               the slot that boots: b, anything else: a
#   upgrade_available    1: it is on trial, its boots are counted
#   bootcount            boots so far, 0 to 7; it is raised on the medium, then the slot boots
#   bootlimit            so many are allowed
#
# When they are used up the other slot boots, and the variables stay as they are until the system in it
# has read them. A try that cannot be counted is not given, for the reason and in the way of order.cmd. A
# slot that does not load makes way for the other one.

# The environment would hide them.
for try_name in try_order try_slot try_rest try_next try_said try_args; do setenv ${try_name}; done

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
  # By name, because not every U-Boot can calculate, and those that can do it in hexadecimal.
  try_next=8
  if test "_${bootcount}" = _ -o "_${bootcount}" = _0; then try_next=1; fi
  if test "_${bootcount}" = _1; then try_next=2; fi
  if test "_${bootcount}" = _2; then try_next=3; fi
  if test "_${bootcount}" = _3; then try_next=4; fi
  if test "_${bootcount}" = _4; then try_next=5; fi
  if test "_${bootcount}" = _5; then try_next=6; fi
  if test "_${bootcount}" = _6; then try_next=7; fi

  if test ${try_next} = 8 -o ${try_next} -gt "${bootlimit}"; then
    echo "boot: slot ${try_slot} passed over, its tries are used up"
    try_order=${try_rest}
  else
    setenv bootcount ${try_next}
    if saveenv; then
      try_said="on trial, try ${try_next} of ${bootlimit}"
    else
      echo "boot: slot ${try_slot} passed over, its try cannot be counted"
      try_order=${try_rest}
    fi
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
