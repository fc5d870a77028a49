# Which slot boots: the U-Boot side of `layout = "order"`.
#
# A builder makes a script image of this file, puts it where no upgrade writes, and lets `bootcmd` source
# it (README.md beside it has the commands). U-Boot's default environment has to define
#
#   boot_slot   the command that loads slot ${try_slot} (a or b) and starts it, with ${try_args} on the
#               kernel's command line; it comes back if that slot does not load
#
#   BOOT_ORDER           A B or B A: the primary slot first
#   BOOT_A_LEFT          9    good: booted, nothing is counted
#   BOOT_B_LEFT          1-7  on trial: the digit is counted down on the medium, then the slot boots
#                        else passed over
#
# A try that cannot be counted is not given: a new system that dies early would otherwise be booted
# for ever. So a slot is passed over if `saveenv` says that it failed. (`env load` cannot ask the medium:
# after a `saveenv` to NOR flash it marks the copy just written obsolete. Let U-Boot itself compare, with
# CONFIG_FLASH_VERIFY, which U-Boot 2023.01 takes from KCPPFLAGS only.) A slot whose kernel does not load
# makes way for the other one. With no slot left, both are tried uncounted, the primary first: a router
# that starts something beats one that stops.
#
# Needs CONFIG_HUSH_PARSER. What begins with `try_` are variables of the shell, which no `saveenv` saves.

# The environment would hide them.
for try_name in try_order try_slot try_left try_rest try_args; do setenv ${try_name}; done

# The first mention counts.
try_order="A B"
if test "${BOOT_ORDER}" = "B A" -o "${BOOT_ORDER}" = "B B" -o "${BOOT_ORDER}" = "B"; then
  try_order="B A"
fi

for try_name in ${try_order}; do
  if test ${try_name} = A; then
    try_slot=a
    try_left="_${BOOT_A_LEFT}"
  else
    try_slot=b
    try_left="_${BOOT_B_LEFT}"
  fi
  # A kernel that dies comes back here, where its tries are counted.
  try_args="sysupgrade.slot=${try_slot} panic=1"

  # By name, because not every U-Boot can calculate.
  try_rest=none
  if test "${try_left}" = _1; then try_rest=0; fi
  if test "${try_left}" = _2; then try_rest=1; fi
  if test "${try_left}" = _3; then try_rest=2; fi
  if test "${try_left}" = _4; then try_rest=3; fi
  if test "${try_left}" = _5; then try_rest=4; fi
  if test "${try_left}" = _6; then try_rest=5; fi
  if test "${try_left}" = _7; then try_rest=6; fi

  if test "${try_left}" = _9; then
    echo "boot: slot ${try_slot}, good"
    run boot_slot
    echo "boot: slot ${try_slot} does not load"
  elif test ${try_rest} != none; then
    setenv BOOT_${try_name}_LEFT ${try_rest}
    if saveenv; then
      echo "boot: slot ${try_slot}, on trial, tries left after this one: ${try_rest}"
      run boot_slot
      echo "boot: slot ${try_slot} does not load"
    else
      echo "boot: slot ${try_slot} passed over, its try cannot be counted"
    fi
  fi
done

for try_name in ${try_order}; do
  if test ${try_name} = A; then try_slot=a; else try_slot=b; fi
  try_args="sysupgrade.slot=${try_slot} panic=1"
  echo "boot: slot ${try_slot}, as a last resort"
  run boot_slot
  echo "boot: slot ${try_slot} does not load"
done

echo "boot: nothing loads, starting over in 10 seconds"
sleep 10
reset
