/* The subcommands of `graphps snapshots`: each is a function like a cmd_*, with argv[0] "graphps
 * snapshots <name>", and returns the exit code. */
#pragma once

int snapshots_list(int argc, char **argv);
int snapshots_show(int argc, char **argv);
int snapshots_verify(int argc, char **argv);
int snapshots_diff(int argc, char **argv);
int snapshots_rm(int argc, char **argv);
