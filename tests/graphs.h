/* Generated graphs for tests: communities with noisy features, imported through the ordinary CSV
 * importer. The same arguments give the same graph. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Writes edges.csv, features.csv, labels.csv, train.csv, valid.csv and test.csv into dir (made when
 * it is not there): n nodes named "n0", "n1", ... in `classes` communities of equal size (node i is
 * in community i % classes), about `degree` undirected edges a node, each listed once, four of five
 * within the community; features are the community's direction plus noise as large, so that neither
 * they nor the edges alone tell the class; labels "c0", "c1", ...; a tenth of the nodes trains, a
 * fifth validates, the others test. */
void graphs_make_community(const char *dir, uint32_t n, uint32_t classes, uint32_t degree,
                           uint32_t features, uint64_t seed);
/* Makes such a graph below root and imports it, undirected, as <name>@1.0.0 into root. Returns the
 * snapshot's directory; static storage. */
const char *graphs_snapshot(const char *root, const char *name, uint32_t n, uint32_t classes,
                            uint32_t degree, uint32_t features, uint64_t seed);
/* The same with weights of edges from 0 to 3, some of them 0. */
const char *graphs_weighted(const char *root, const char *name, uint32_t n, uint32_t classes,
                            uint32_t degree, uint32_t features, uint64_t seed);
/* The same with several labels a node: those of community k have the labels "c<k>" and
 * "c<(k + 1) % classes>", and those of community 0 also "c2". */
const char *graphs_multi_label(const char *root, const char *name, uint32_t n, uint32_t classes,
                               uint32_t degree, uint32_t features, uint64_t seed);
/* Writes such a graph's files, as graphs_make_community does. */
void graphs_make_multi_label(const char *dir, uint32_t n, uint32_t classes, uint32_t degree,
                             uint32_t features, uint64_t seed);
/* The same with `targets` target values a node, columns of numbers, in place of labels: a fixed
 * linear map of the node's features as they are written, plus noise, even between -noise and noise.
 */
const char *graphs_regression(const char *root, const char *name, uint32_t n, uint32_t targets,
                              uint32_t degree, uint32_t features, double noise, uint64_t seed);
/* graphs_snapshot, and cut into parts. */
const char *graphs_partitioned(const char *root, const char *name, uint32_t n, uint32_t classes,
                               uint32_t degree, uint32_t features, uint64_t seed, uint32_t parts,
                               uint32_t halo);
