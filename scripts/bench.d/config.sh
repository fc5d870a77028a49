# shellcheck shell=bash disable=SC2154,SC2034 # variables of scripts/bench
# The merge of a large configuration, and the upgrade and first boot of a router that has it.

# Three trees of 500 files, 20 of them UCI packages of 300 sections, half of these without names: the old
# defaults, and what a user and a new version made of them. Every twentieth option, line or section has
# another value, is gone, or is new on a side. The seed is fixed: always the same trees.
perl -e 'srand 1;
    my @packages = (qw(dhcp firewall network system wireless), map { "package$_" } 6 .. 20);
    my %keyed = (firewall => ["rule", "name"], dhcp => ["host", "mac"]);
    my @names = qw(enabled proto src dest target device limit comment);
    sub word { join "", map { chr(97 + int rand 26) } 1 .. shift }
    sub changed { rand() < 0.05 }
    sub section {
        my ($package, $number) = @_;
        my ($type, $key) = @{$keyed{$package} || ["item", "label"]};
        my %options = map { $_ => word(4) } @names;
        return {head => "config section \x27s$number\x27", options => \%options} if $number % 2;
        return {head => "config $type", key => "\toption $key \x27$number\x27\n", options => \%options};
    }
    sub show {
        my $text = "";
        for my $section (@_) {
            my $options = $section->{options};
            $text .= "$section->{head}\n" . ($section->{key} || "");
            $text .= "\toption $_ \x27$options->{$_}\x27\n" for sort keys %$options;
            $text .= "\n";
        }
        return $text;
    }
    sub edit {
        my ($package, $from, @sections) = @_;
        my @result;
        for my $section (@sections) {
            push @result, section($package, $from += 2) if rand() < 0.01;
            next if rand() < 0.01;
            my %options = map { $_ => changed() ? word(5) : $section->{options}{$_} } sort keys %{$section->{options}};
            push @result, {%$section, options => \%options};
        }
        return @result;
    }
    sub put {
        my ($tree, $path, $text) = @_;
        open my $file, ">", "$tree/etc/$path" or die "$tree/etc/$path: $!";
        print $file $text;
    }
    for my $tree (qw(base user new)) { mkdir $tree; mkdir "$tree/etc"; mkdir "$tree/etc/$_" for qw(config files) }
    for my $package (@packages) {
        my @base = map { section($package, $_) } 1 .. 300;
        put("base", "config/$package", show(@base));
        put("user", "config/$package", show(edit($package, 1000, @base)));
        put("new", "config/$package", show(edit($package, 2001, @base)));
    }
    for my $number (1 .. 480) {
        my @base = map { word(30) . "\n" } 1 .. 40;
        put("base", "files/$number", join "", @base);
        for my $tree (qw(user new)) {
            my @lines = $number % 4 ? @base : map { changed() ? word(20) . "\n" : $_ } @base;
            put($tree, "files/$number", join "", @lines);
        }
    }'

# config_row KEY LABEL COMMAND...: each round after `prepare`. Ending with 3 is its way to say that something
# needs review.
config_row() {
    local key=$1 label=$2 round code
    shift 2
    rm -f ./*.rounds
    for ((round = 0; round < rounds; round++)); do
        prepare
        code=0
        /usr/bin/time -q -o time.out -f '%e %M' "$@" > config.out 2> errors || code=$?
        [ $code = 0 ] || [ $code = 3 ] || { cat errors >&2; exit 1; }
        cut -d ' ' -f 1 time.out >> seconds.rounds
        cut -d ' ' -f 2 time.out >> memory.rounds
    done
    keep "config.$key.seconds" s - seconds.rounds
    keep "config.$key.memory" KiB - memory.rounds
    awk -v label="$label" -v seconds="$(spread seconds.rounds)" -v memory="$(spread memory.rounds)" 'BEGIN {
        split(seconds, s); split(memory, m)
        printf "%-34s %6.2f (%4.2f - %4.2f) s %8.2f MiB\n", label, s[1], s[2], s[3], m[3] / 1024
    }'
}

title "Configuration: $(find base -type f | wc -l) files, 20 of them packages of 300 sections, $(du -sk --apparent-size base | cut -f 1) KiB"
prepare() { rm -rf merged; }
config_row merge 'config merge' "$program" config merge --base base --user user --new new --out merged

# The upgrade of a router with this configuration: what it was shipped with is in rom.
mkdir -p base/lib/upgrade/keep.d
echo /etc/ > base/lib/upgrade/keep.d/base
cp -r base/lib user
cp -r base/lib new
for tree in base user new; do
    echo 'VERSION_ID="1"' > $tree/etc/os-release
done
mkdir -p user/etc/sysupgrade-rs
mv router/etc/sysupgrade-rs/keys user/etc/sysupgrade-rs
rm -rf router/etc router/lib router/rom
cp -r user/. router
cp -r base router/rom
echo tiny > root
image image root --defaults new
medium ram 1
prepare() { reset_router; hold /dev/zero 1; }
config_row install 'install, with the plan' "$program" --root router --no-reboot --progress=none image

# Its first boot in the other slot, over a root as it was shipped.
rm -rf router/etc router/lib router/rom
cp -r new router/rom
cp -r new/. router
echo 'sysupgrade.slot=b' > router/proc/cmdline
prepare() { rm -rf router/data; cp -r committed router/data; }
cp -r router/data committed
config_row first-boot 'first boot onto an overlay' "$program" --root router first-boot
