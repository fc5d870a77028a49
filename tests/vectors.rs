//! What a configuration becomes, case by case: four directories and what is expected of them.
//!
//! `tests/vectors/config` holds the acceptance cases of the specification, `tests/cases` those that
//! were written beside them, for the rules that have none there. Each case is run as a builder runs
//! it at a desk, from plain directories.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sysupgrade_rs::config::desk::case::run_case;
use sysupgrade_rs::config::desk::{self, Context, Dirs, Storage};
use sysupgrade_rs::config::{Entry, EntryPath};

/// Cases of things that are not built; each fails, with these words.
const NOT_BUILT: [(&str, &str); 1] = [(
    "swconfig-to-dsa-simple",
    "this transform is not in this version",
)];

fn set(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(name)
}

/// Cases are named as their tests, with hyphens.
fn case_of(test: &str) -> String {
    test.replace('_', "-")
}

fn at_the_desk(set_name: &str, test: &str) {
    let case = case_of(test);
    let result = run_case(&set(set_name).join(&case));
    if let Some((_, reason)) = NOT_BUILT.iter().find(|(name, _)| *name == case) {
        let error = result
            .map(|result| result.differences)
            .expect_err("it is built");
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(next) = cause {
            text.push_str(&next.to_string());
            cause = next.source();
        }
        assert!(text.contains(reason), "{text}");
        return;
    }
    let result = result.expect("a case that can be run");
    assert!(
        result.differences.is_empty(),
        "{}\n  {}",
        result.title,
        result.differences.join("\n  ")
    );
}

/// What comes of a case with these steps: every path with what stands there.
fn result(dir: &Path, case: &Value) -> Vec<(EntryPath, Entry)> {
    let [base, user, new] = ["old-default", "user", "new-default"].map(|name| dir.join(name));
    let dirs = Dirs {
        base: &base,
        user: &user,
        new: &new,
    };
    let context = Context::parse(case.to_string().as_bytes()).expect("a context");
    let outcome = desk::merge(&dirs, &context, Storage::Checkout).expect("an outcome");
    let entries = outcome.merge.result.iter();
    entries
        .map(|(path, entry)| (path.clone(), entry.clone()))
        .collect()
}

#[test]
fn each_step_of_each_case_taken_twice_is_taken_once() {
    let mut count = 0;
    for set_name in ["vectors/config", "cases"] {
        for entry in fs::read_dir(set(set_name)).expect("the set") {
            let dir = entry.expect("an entry").path();
            let text = fs::read_to_string(dir.join("case.json")).expect("a case");
            let mut case: Value = serde_json::from_str(&text).expect("json");
            let Some(steps) = case["migrations"].as_array().cloned() else {
                continue;
            };
            if NOT_BUILT.iter().any(|(name, _)| dir.ends_with(name)) {
                continue;
            }
            let once = result(&dir, &case);
            let twice = steps.into_iter().flat_map(|mut step| {
                let seq = step["seq"].as_i64().expect("a number");
                step["seq"] = json!(2 * seq);
                let mut again = step.clone();
                let id = step["id"].as_str().expect("a name");
                again["id"] = json!(format!("{id}-again"));
                again["seq"] = json!(2 * seq + 1);
                [step, again]
            });
            case["migrations"] = twice.collect();
            assert_eq!(result(&dir, &case), once, "{}", dir.display());
            count += 1;
        }
    }
    assert!(count > 15, "{count} cases with steps are too few");
}

/// A test for each case of a set, and one that no case was left out.
macro_rules! cases {
    ($set:literal: $($case:ident)*) => {
        $(#[test] fn $case() { super::at_the_desk($set, stringify!($case)); })*

        #[test]
        fn no_case_is_without_a_test() {
            super::no_case_is_left_out($set, &[$(stringify!($case)),*]);
        }
    };
}

fn no_case_is_left_out(set_name: &str, tests: &[&str]) {
    let listed: BTreeSet<String> = tests.iter().map(|test| case_of(test)).collect();
    let entries = fs::read_dir(set(set_name)).expect("the set");
    let there: BTreeSet<String> = entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("a name")
        })
        .collect();
    assert_eq!(listed, there);
}

mod acceptance {
    cases! { "vectors/config":
        accounts_new_system_users
        bridge_interface_to_device
        crontab_migrated_line
        deleted_default_stays_deleted
        downgrade_maps_back
        dropbear_anonymous_to_named
        file_where_image_has_directory
        fingerprint_without_baseline
        firewall_option_becomes_list
        firewall_rules_and_order
        firewall_user_orphaned
        hosts_line_set
        leftovers_and_first_boot_scripts
        mode_only_change
        opaque_files
        package_feeds_and_keys
        rc_local_clean_merge
        scope_declared_like_stock
        script_both_changed
        service_stays_disabled
        swconfig_to_dsa_simple
        symlink_replaced_by_file
        symlink_retargeted
        sysctl_clean_merge
        text_conflict_user_whole
        uci_add_add
        uci_both_changed_clean
        uci_broken_user_file
        uci_deleted_section
        uci_list_three_way
        uci_rewritten_not_changed
        uci_same_option_conflict
        uci_unmodified_takes_new
        uci_user_comments_kept
        uci_user_edit_vendor_same
        user_added_files_kept
        vendor_mode_change
        vendor_removed_unmodified
        wireless_device_path_moved
        wireless_hwmode_to_band
    }
}

mod further {
    cases! { "cases":
        account_deleted_and_retired
        account_group_id_taken
        account_id_taken
        account_password_fields
        accounts_members
        accounts_without_root_refused
        empty_directories
        lines_record_set
        links
        mode_conflict
        nobody_has_it_any_more
        owner_by_name
        policy_conflict_fail
        policy_conflict_fail_without_dispute
        policy_conflict_new
        policy_drop
        policy_keep_pins
        policy_max_and_none
        policy_mode_masks
        policy_of_image_and_user
        policy_ondelete_restore
        policy_replace
        scope_declared_patterns
        scope_etc_outside
        services_by_name
        set_id_only_from_image
        steps_backward_rename
        steps_backward_with_attic
        steps_broken_package
        steps_file_moves
        steps_for_other_boards
        steps_lines
        steps_map_shapes
        steps_move_and_default
        steps_one_way_refused
        steps_rename_keeps_target
        steps_rename_package
        steps_since_counts_as_taken
        text_add_add
        text_ends_and_carriage_returns
        text_that_is_code
        text_touching_edits
        type_image_directory_for_file
        type_image_file_for_directory
        type_image_file_for_untouched_directory
        type_user_directory_for_file
        uci_add_add_sections
        uci_both_deleted_and_same_change
        uci_broken_new_default
        uci_comment_is_a_change
        uci_empty_option_is_absent
        uci_key_alternatives
        uci_list_key
        uci_names_with_a_dot
        uci_option_changed_and_dropped
        uci_order
        uci_order_user
        uci_renamed_rule
        uci_scalar_against_list
        uci_secret_disputed
        uci_section_dropped_by_image
        uci_similar_sections
        uci_single_section
        uci_type_of_a_section
        uci_whole_package_deleted
    }
}
