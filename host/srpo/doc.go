// Package srpo holds the arithmetic of SRPO (self-referential policy
// optimisation, arXiv 2511.15605): from the embeddings of a batch of rollouts to
// their rewards, and from rewards to advantages. It runs nothing, keeps no clock
// and draws no random number: the same input gives the same output, bit for bit,
// in whatever order the rollouts come.
//
// Read it in the paper's order:
//
//	rollout.go    h_i, the embedding of a rollout, and when it is unusable
//	cluster.go    C = centres of the successes' clusters       (dbscan.go: DBSCAN)
//	reward.go     d_i = min_j ||h_i - c_j||, then the reward g_i
//	advantage.go  A_i = (g_i - mean)/sqrt(var + eps) over a group
//	offline.go    the same from progress curves, for advantage-weighted regression
//	memory.go     successes of earlier iterations as references
//	diagnose.go   is the reward any good? AUROC, rank correlation, pair order
//
// Where the paper as printed, the siiRL reference implementation (version 0.2.0)
// and this package differ, the comment at that line says so.
package srpo
