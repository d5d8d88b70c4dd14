// Package srpo contains the arithmetic of SRPO (self-referential policy optimisation, arXiv 2511.15605): from
// the embeddings of a batch of rollouts to their rewards, and from rewards to advantages. It starts nothing,
// reads no clock and draws no random number. The same input gives the same output, bit for bit, in any order of
// the rollouts.
//
// Read it in the paper's order:
//
//	rollout.go    h_i, the embedding of a rollout      (embedding.go: which embeddings are usable)
//	cluster.go    C = centres of the successes' clusters       (dbscan.go: DBSCAN)
//	reward.go     d_i = min_j ||h_i - c_j||, then the reward g_i
//	advantage.go  A_i = (g_i - mean)/sqrt(var + eps) over a group
//	offline.go    the same from progress curves, for advantage-weighted regression
//	memory.go     successes of earlier iterations as references
//	diagnose.go   how well the reward orders rollouts: AUROC, rank correlation, pair order
//
// The references of a task are the embeddings that its rollouts are compared with, usually those of its
// successes. Where the paper as printed, the authors' implementation (siiRL 0.2.0 on PyPI) and this package
// differ, a comment says so.
package srpo
