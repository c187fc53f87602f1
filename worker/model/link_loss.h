/* Losses of links against their negatives, means over the links; forward and backward at once. A
 * score's gradient is that of the mean. sigma: the logistic function. */
#pragma once

#include "worker/graph/batch.h"

/* Binary cross-entropy of a link and of its m negatives, which count together as much as the link
 * does (as links and others do with the weights of Kipf & Welling, "Variational graph
 * auto-encoders", 2016; the mean over all of them would draw dot products to 0):
 *     loss_i = (-log sigma(s_i) - 1/m sum_k log(1 - sigma(s_ik))) / 2
 * scores, dscores [pairs]. Returns the sum over the links. */
double link_loss_bce(const struct link_pairs *pairs, const float *scores, float *dscores);
/* Bayesian personalised ranking (Rendle, Freudenthaler, Gantner & Schmidt-Thieme, UAI 2009, section
 * 4.1; its regularisation is optimizer.weight_decay), mean over the negatives:
 *     loss_i = -1/m sum_k log sigma(s_i - s_ik)
 * A link without negatives has none. */
double link_loss_bpr(const struct link_pairs *pairs, const float *scores, float *dscores);
