package train

import (
	"context"
	"fmt"
	"time"

	"github.com/srpo-dev/srpo/host/attempts"
	"github.com/srpo-dev/srpo/host/audit"
	"github.com/srpo-dev/srpo/host/dataset"
	"github.com/srpo-dev/srpo/host/embed"
	"github.com/srpo-dev/srpo/host/media"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/srpo"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// offline reports whether the run learns from recorded episodes instead of acting.
func (r *run) offline() bool { return r.cfg.Offline.Data != "" && !r.ImitateOnly }

// encodes reports whether the run needs its encoder.
func (r *run) encodes() bool {
	if r.offline() {
		return r.cfg.Offline.Weights == "progress"
	}
	return !r.sparse && !r.ImitateOnly
}

// weightedSet are the recorded episodes that an offline run learns from.
type weightedSet struct {
	set      dataset.Set
	episodes []int // in the set
	weights  map[int][]float32

	steps, successes   int
	dropped            int     // episodes without a progress curve
	effective, largest float64 // share of the steps that count; largest weight
	clipped            float64 // share of the steps at offline.most_weight
	// successAdvantage and failureAdvantage are the mean advantages of the steps of successes and failures.
	successAdvantage, failureAdvantage float64
	embedSeconds                       float64
}

// add adds an episode with the weights of its steps.
func (w *weightedSet) add(episode int, weights []float32) {
	w.episodes = append(w.episodes, episode)
	w.weights[episode] = weights
}

// learnOffline is an offline run (arXiv 2511.15605, the recipe for the real arm). The progress curves of all
// episodes give differences D_t = R_t - R_(t-1), standardised over all of them to advantages A_t. The policy
// then imitates the recorded actions with the weights exp(A_t/temperature). An iteration is one such regression
// of imitate.steps gradient steps. The weights are the same in each.
func (r *run) learnOffline(ctx context.Context) error {
	if r.last.Iteration >= r.cfg.Run.Iterations {
		return nil
	}
	if s := r.session.Sched; !s.PolicySpec.WeighsSteps {
		return plugins.Errorf(plugins.Unsupported, "%s does not learn from weighted demonstrations", s.PolicyName).
			WithPlace("%s", r.cfg.Origin("offline.data")).
			WithHint("use tiny, openvla, pi0 or pi0-fast; a policy of your own sets weighs_steps in its " +
				"PolicySpec, see " +
				"docs/plugin-authors.md")
	}
	set, episodes, err := r.openData(ctx, r.cfg.Offline.Data, r.cfg.Origin("offline.data"))
	if err != nil {
		return err
	}
	defer set.Close()
	r.Terminal.Line("offline: %s of %s (%s)", report.Count(len(episodes), "episode"), r.cfg.Offline.Data, set.Form())
	w, err := r.weigh(ctx, set, episodes)
	if err != nil {
		return err
	}
	r.Terminal.Line(
		"weights %s: %s of %d with %d successes, as much as %.0f %% of the %d steps at equal weight, largest %.3g",
		r.cfg.Offline.Weights,
		report.Count(len(w.episodes), "episode"),
		len(episodes),
		w.successes,
		100*w.effective,
		w.steps,
		w.largest,
	)
	for i := r.last.Iteration + 1; i <= r.cfg.Run.Iterations; i++ {
		if err := r.offlineIteration(ctx, i, w); err != nil {
			return err
		}
	}
	return nil
}

// offlineIteration makes one regression and commits it.
func (r *run) offlineIteration(ctx context.Context, i int, w *weightedSet) error {
	start := time.Now()
	r.status = report.Status{Iteration: i, Iterations: r.cfg.Run.Iterations, Phase: "update",
		EnvSteps: r.state.EnvSteps}
	next := *r.state
	next.UpdateID++
	loss, err := r.regress(ctx, i, next.UpdateID, w)
	if err != nil {
		return err
	}
	seconds := map[string]float64{"update": time.Since(start).Seconds(), "encode": w.embedSeconds}
	w.embedSeconds = 0
	m := store.Metrics{Iteration: i, EnvSteps: next.EnvSteps, Episodes: len(w.episodes), EmbeddingsDropped: w.dropped,
		SuccessRate: float64(w.successes) / float64(max(1, len(w.episodes))), SecondsByPhase: seconds,
		Extra: map[string]float64{"updated": 1, "loss": loss, "samples": float64(w.steps),
			"offline_effective_share": w.effective, "offline_largest_weight": w.largest,
			"offline_clipped_share": w.clipped, "offline_advantage_successes": w.successAdvantage,
			"offline_advantage_failures": w.failureAdvantage}}
	r.state = &next
	return r.finish(ctx, m, start, func(m store.Metrics) {
		r.Terminal.Line("iteration %d/%d  offline  loss %.4g  %.1f s", i, r.cfg.Run.Iterations, loss, m.Seconds)
	})
}

// regress makes the policy imitate the weighted episodes, and returns the last loss.
func (r *run) regress(ctx context.Context, i int, id uint64, w *weightedSet) (loss float64, err error) {
	name := r.session.Sched.PolicyName
	client, _, err := r.session.Sched.Policy.Client(ctx)
	if err != nil {
		return 0, err
	}
	imitator, ok := client.(policy.Imitator)
	if !ok {
		return 0, plugins.Errorf(plugins.Unsupported, "%s cannot learn from demonstrations", name).
			WithHint("use another policy")
	}
	trained := false
	request := policy.Imitate{ID: id, Seed: rollout.Seed(r.cfg.Run.Seed, "offline", i), Steps: r.cfg.Imitate.Steps}
	demonstrations := r.recorded(ctx, w.set, w.episodes, w.weights)
	err = imitator.Imitate(ctx, request, demonstrations, func(done, l float64) {
		loss, trained = l, trained || l != 0
		r.status.Done, r.status.Total = int(1000*done), 1000
		r.Terminal.Update(r.status)
	})
	if err != nil {
		return 0, err
	}
	if !trained { // a policy that takes the call for one that it has answered before
		return 0, plugins.Errorf(plugins.Corrupt, "Imitate ended without a step of training").WithPlace("%s", name).
			WithHint("a fault in the policy plugin: Load must return the last id that the weights contain, " +
				"including those of " +
				"imitations")
	}
	return loss, checkLoss(loss, name)
}

// weigh gives every step of the episodes its weight.
func (r *run) weigh(ctx context.Context, set dataset.Set, episodes []int) (*weightedSet, error) {
	w, list := &weightedSet{set: set, weights: map[int][]float32{}}, set.Episodes()
	if r.cfg.Offline.Weights == "progress" {
		if err := r.weighByProgress(ctx, w, episodes); err != nil {
			return nil, err
		}
	} else {
		for _, i := range episodes {
			weights := make([]float32, list[i].Steps)
			for t := range weights {
				if r.cfg.Offline.Weights == "uniform" || isSuccess(list[i]) {
					weights[t] = 1
				}
			}
			w.add(i, weights)
		}
	}
	return w, r.normalise(w)
}

// normalise divides the weights by their mean, so that the policy's learning rate keeps its meaning.
func (r *run) normalise(w *weightedSet) error {
	var sum, squares float64
	for _, i := range w.episodes {
		w.steps += len(w.weights[i])
		for _, x := range w.weights[i] {
			sum += float64(x)
			squares += float64(x) * float64(x)
		}
		if isSuccess(w.set.Episodes()[i]) {
			w.successes++
		}
	}
	if sum == 0 {
		return plugins.Errorf(plugins.Invalid, "no step of %d episodes has a weight above 0", len(w.episodes)).
			WithPlace("%s", r.cfg.Offline.Data).
			WithHint("record some successes, or use --set offline.weights=uniform")
	}
	mean := sum / float64(w.steps)
	w.effective = sum * sum / (squares * float64(w.steps))
	for _, i := range w.episodes {
		weights := w.weights[i]
		for t := range weights {
			weights[t] /= float32(mean)
			w.largest = max(w.largest, float64(weights[t]))
		}
	}
	return nil
}

// weighByProgress weighs the steps by the progress curves of the episodes.
func (r *run) weighByProgress(ctx context.Context, w *weightedSet, episodes []int) error {
	start, list, c := time.Now(), w.set.Episodes(), r.cfg.Offline
	curves, err := r.progressCurves(ctx, w.set, episodes)
	if err != nil {
		return err
	}
	byID := map[string]audit.Curve{}
	for _, x := range curves {
		byID[x.ID] = x
	}
	var stepwise []srpo.Curve
	var from []int
	for _, i := range episodes {
		if x, ok := byID[list[i].ID]; ok && list[i].Steps > 0 {
			stepwise = append(stepwise, srpo.Curve{ID: list[i].ID, Progress: atSteps(x, list[i].Steps)})
			from = append(from, i)
		}
	}
	if len(from) == 0 {
		return plugins.Errorf(plugins.Invalid, "none of the %d episodes has a progress curve", len(episodes)).
			WithPlace("%s", c.Data).
			WithHint("curves of failures need at least one success of the same task, and every clip two frames; " +
				"record " +
				"more, or use --set offline.weights=uniform")
	}
	if w.dropped = len(episodes) - len(from); w.dropped > 0 {
		r.Terminal.Warn(
			"%s without a progress curve are left out: clips that cannot be embedded, or failures of a task "+
				"without a success",
			report.Count(w.dropped, "episode"),
		)
	}
	advantages, err := srpo.ProgressAdvantages(stepwise, srpo.DefaultAdvantageOptions().Eps)
	if err != nil {
		return plugins.Errorf(plugins.Internal, "%w", err)
	}
	var sum, n [2]float64 // of failures, successes
	steps, clipped := 0, 0
	for k, a := range advantages {
		weights, side := make([]float32, len(a)), 0
		if isSuccess(list[from[k]]) {
			side = 1
		}
		for t, v := range a {
			x := srpo.RegressionWeight(v, c.Temperature, c.MostWeight)
			if x >= c.MostWeight {
				clipped++
			}
			weights[t] = float32(x)
			sum[side] += v
			n[side]++
		}
		steps += len(weights)
		w.add(from[k], weights)
	}
	w.clipped = float64(clipped) / float64(max(1, steps))
	w.failureAdvantage, w.successAdvantage = sum[0]/max(1, n[0]), sum[1]/max(1, n[1])
	w.embedSeconds = time.Since(start).Seconds()
	return nil
}

// progressCurves embeds the growing windows of the episodes' clips, as srpo reward --curves does, and measures them
// against the successes among them. The ends of the curves are env steps.
func (r *run) progressCurves(ctx context.Context, set dataset.Set, episodes []int) ([]audit.Curve, error) {
	all := set.Episodes()
	list, index := &attempts.List{Source: r.cfg.Offline.Data}, map[string]int{}
	for k, i := range episodes {
		e := all[i]
		list.Attempts = append(list.Attempts,
			attempts.Attempt{ID: e.ID, Task: e.Task, Success: e.Success, Video: e.ID})
		index[e.ID] = k
	}
	cache, removeCache, err := embed.OpenCache(r.Cache)
	if err != nil {
		return nil, err
	}
	defer removeCache()
	clips := &embed.Clips{List: list, Cache: cache, Terminal: r.Terminal,
		Source: func(ctx context.Context, k int) (media.Clip, error) { return set.Clip(ctx, episodes[k]) }}
	if err := clips.Scan(ctx); err != nil {
		return nil, err
	}
	encoder := r.session.Encoder
	vectors, err := embed.New(encoder, clips).EmbedAll(ctx, embed.WithWindows, r.cfg.Offline.Windows)
	if err != nil {
		return nil, err
	}
	var items []audit.Item
	for k, a := range list.Attempts {
		v := vectors[k].Whole
		if a.Problem != "" || vectors[k].Problem != "" || len(v.Clip) == 0 {
			r.event(
				store.Event{Type: store.EmbeddingDropped,
					Message: fmt.Sprintf("%s: %s%s", a.ID, a.Problem, vectors[k].Problem)},
			)
			continue
		}
		items = append(items, audit.Item{ID: a.ID, Task: a.Task, Success: a.Success, Frames: clips.Info[k].Frames,
			Embedding: v.Clip, Ends: v.Ends, Windows: v.Windows})
	}
	cluster := r.cfg.RewardOptions(encoder.Spec.Dimension).Cluster
	curves, err := audit.Curves(items, cluster, audit.Scale(r.cfg.Offline.Scale))
	if err != nil {
		return nil, plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("%s", r.cfg.Offline.Data)
	}
	for n := range curves {
		k := index[curves[n].ID]
		curves[n].Ends = endSteps(curves[n].Ends, clips.Info[k].Frames, set.RecordEvery(), all[episodes[k]].Steps)
	}
	return curves, nil
}

// endSteps converts the ends of windows from frames to env steps: frame k was recorded after k*every steps. The
// frames of a clip that was reduced because it is long are spread evenly.
func endSteps(ends []int, frames, every, steps int) []int {
	out := make([]int, len(ends))
	for j, end := range ends {
		if out[j] = (end - 1) * every; frames > 1 && frames != 1+steps/every && frames != 1+(steps-1)/every {
			out[j] = (end - 1) * steps / (frames - 1)
		}
	}
	return out
}

// atSteps returns the progress after every env step, R_0 to R_T. It interpolates linearly between the windows
// of a curve, whose ends are env steps, and is constant before the first window and after the last.
func atSteps(c audit.Curve, steps int) []float64 {
	out := make([]float64, steps+1)
	k := 0
	for t := range out {
		for k+1 < len(c.Ends) && c.Ends[k+1] <= t {
			k++
		}
		at := float64(c.Ends[k])
		switch {
		case float64(t) <= at || k+1 == len(c.Ends):
			out[t] = c.Progress[k]
		default:
			next := float64(c.Ends[k+1])
			out[t] = c.Progress[k] + (c.Progress[k+1]-c.Progress[k])*(float64(t)-at)/(next-at)
		}
	}
	return out
}
