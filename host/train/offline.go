package train

import (
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/srpo-dev/srpo/host/attempts"
	"github.com/srpo-dev/srpo/host/audit"
	"github.com/srpo-dev/srpo/host/config"
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

// offline says whether the run learns from recorded episodes instead of acting.
func (r *run) offline() bool { return r.cfg.Offline.Data != "" && !r.ImitateOnly }

// encodes says whether the run needs its encoder.
func (r *run) encodes() bool {
	if r.offline() {
		return r.cfg.Offline.Weights == "progress"
	}
	return !r.sparse && !r.ImitateOnly
}

// lesson is what is learned from a recorded episode.
type lesson struct {
	episode int // in the set
	weights []float32
}

// lessons are all of them, with what was found on the way.
type lessons struct {
	list                              []lesson
	steps, successes, dropped         int
	effective, largest                float64 // share of the steps that count; largest weight
	clipped                           float64 // share of the steps at offline.most_weight
	embedding                         float64 // seconds
	successAdvantage, failureAdvantge float64 // mean A of the steps of successes and of failures
}

// learnOffline is the whole of an offline run (arXiv 2511.15605, the real-arm recipe): progress curves of all episodes, differences D_t = R_t - R_(t-1)
// standardised over all of them, and regression on the recorded actions with the weights exp(A_t/temperature). An iteration is one such regression, of
// imitate.steps gradient steps; the weights are the same in each.
func (r *run) learnOffline(ctx context.Context) error {
	if r.last.Iteration >= r.cfg.Run.Iterations {
		return nil
	}
	s := r.session
	if !s.Sched.PolicySpec.WeighsSteps {
		return plugins.Errorf(plugins.Unsupported, "%s does not learn from weighted demonstrations", s.Sched.PolicyName).WithPlace("%s", r.cfg.Origin("offline.data")).
			WithHint("tiny, openvla, pi0 and pi0-fast do; a policy of your own says so by weighs_steps in its PolicySpec, see docs/plugin-authors.md")
	}
	set, picked, err := r.openData(ctx, r.cfg.Offline.Data, r.cfg.Origin("offline.data"))
	if err != nil {
		return err
	}
	defer set.Close()
	r.Terminal.Line("offline: %s of %s (%s)", report.Count(len(picked), "episode"), r.cfg.Offline.Data, set.Form())
	all, err := r.weigh(ctx, set, picked)
	if err != nil {
		return err
	}
	r.Terminal.Line("weights %s: %s of %d with %d successes, as much as %.0f %% of the %d steps at equal weight, largest %.3g", r.cfg.Offline.Weights, report.Count(len(all.list), "episode"), len(picked),
		all.successes, 100*all.effective, all.steps, all.largest)
	for i := r.last.Iteration + 1; i <= r.cfg.Run.Iterations; i++ {
		if err := r.offlineIteration(ctx, i, set, all); err != nil {
			return err
		}
	}
	return nil
}

// offlineIteration makes one regression and commits it.
func (r *run) offlineIteration(ctx context.Context, i int, set dataset.Set, all *lessons) error {
	start, seconds := time.Now(), map[string]float64{}
	client, _, err := r.session.Sched.Policy.Client(ctx)
	if err != nil {
		return err
	}
	im, ok := client.(policy.Imitator)
	if !ok {
		return plugins.Errorf(plugins.Unsupported, "%s cannot learn from demonstrations", r.session.Sched.PolicyName).WithHint("use another policy")
	}
	r.status = report.Status{Iteration: i, Iterations: r.cfg.Run.Iterations, Phase: "update", EnvSteps: r.state.EnvSteps}
	next := *r.state
	next.UpdateID++
	var picked []int
	weights := map[int][]float32{}
	for _, l := range all.list {
		picked, weights[l.episode] = append(picked, l.episode), l.weights
	}
	last, told := 0.0, false
	asked := policy.Imitate{ID: next.UpdateID, Seed: rollout.Seed(r.cfg.Run.Seed, "offline", i), Steps: r.cfg.Imitate.Steps}
	err = im.Imitate(ctx, asked, r.recorded(ctx, set, picked, weights), func(done, loss float64) {
		last, told = loss, told || loss != 0
		r.status.Done, r.status.Total = int(1000*done), 1000
		r.Terminal.Update(r.status)
	})
	if err != nil {
		return err
	}
	if !told { // as when it takes the call for one that it has answered before
		return plugins.Errorf(plugins.Corrupt, "Imitate ended without a step of training").WithPlace("%s", r.session.Sched.PolicyName).
			WithHint("a fault in the policy plugin: Load must return the last id that the weights contain, those of imitations among them")
	}
	if err := finiteLoss(last, r.session.Sched.PolicyName); err != nil {
		return err
	}
	seconds["update"] = time.Since(start).Seconds()
	seconds["encode"], all.embedding = all.embedding, 0
	m := store.Metrics{Iteration: i, EnvSteps: next.EnvSteps, Episodes: len(all.list), SuccessRate: float64(all.successes) / float64(max(1, len(all.list))), EmbeddingsDropped: all.dropped,
		SecondsByPhase: seconds, Extra: map[string]float64{"updated": 1, "loss": last, "samples": float64(all.steps), "offline_effective_share": all.effective,
			"offline_largest_weight": all.largest, "offline_clipped_share": all.clipped, "offline_advantage_successes": all.successAdvantage,
			"offline_advantage_failures": all.failureAdvantge}}
	r.state = &next
	if n := r.cfg.Run.EvalEvery; n > 0 && (i%n == 0 || i == r.cfg.Run.Iterations) {
		if err := r.evaluate(ctx, i, &m, seconds); err != nil {
			return err
		}
	}
	r.status.Phase, r.status.Done, r.status.Total = "commit", 0, 0
	r.Terminal.Update(r.status)
	m.Seconds = time.Since(start).Seconds()
	if err := r.commit(ctx, i, &m); err != nil {
		return err
	}
	r.metrics = append(r.metrics, m)
	r.Terminal.Line("iteration %d/%d  offline  loss %.4g  %.1f s", i, r.cfg.Run.Iterations, last, m.Seconds)
	if r.tb != nil {
		if err := r.tb.Add(m, time.Now()); err != nil {
			return err
		}
	}
	return report.WriteRun(r.folder)
}

// openData opens a folder of recorded episodes, and refuses one whose actions the env or the policy would not understand. It returns the episodes of the run's
// tasks.
func (r *run) openData(ctx context.Context, dir string, from config.Origin) (dataset.Set, []int, error) {
	s, c := r.session, r.cfg.Data
	wanted := slices.Clone(s.PolicyCameras)
	if cam := s.Sched.EnvSpec.RecordCamera; cam != "" {
		wanted = append([]string{cam}, slices.DeleteFunc(wanted, func(x string) bool { return x == cam })...)
	}
	set, err := dataset.Open(ctx, dir, dataset.Options{Cameras: c.Cameras, Wanted: wanted, Action: c.Action, State: c.State, Success: c.Success, Every: r.cfg.Rollout.RecordEvery, Reader: r.Reader})
	if err != nil {
		if e := plugins.AsError(err); e.Place == "" {
			return nil, nil, e.WithPlace("%s", from)
		}
		return nil, nil, err
	}
	fail := func(err error) (dataset.Set, []int, error) {
		set.Close()
		return nil, nil, err
	}
	space, env := set.Space(), s.Sched.EnvSpec
	if n := space.Action.Dim(); n > 0 && n != env.Action.Dim() {
		return fail(plugins.Errorf(plugins.Mismatch, "its actions have %d numbers (%s), those of %s %d (%s)", n, strings.Join(space.Action.Names, ", "), s.Sched.EnvName, env.Action.Dim(),
			strings.Join(env.Action.Names, ", ")).WithPlace("%s", dir).WithHint("name the env in which they were recorded: --env NAME"))
	}
	if space.Env != "" && space.Action.Dim() > 0 && !slices.Equal(space.Action.Names, env.Action.Names) {
		return fail(plugins.Errorf(plugins.Mismatch, "its actions are %s, those of %s are %s", strings.Join(space.Action.Names, ", "), s.Sched.EnvName, strings.Join(env.Action.Names, ", ")).
			WithPlace("%s", dir).WithHint("name the env in which they were recorded: --env %s", space.Env))
	}
	// Where the folder's tasks are the env's, only those of the run count; a data set from elsewhere has tasks of its own.
	mine, known := map[string]bool{}, false
	for _, t := range r.tasks {
		mine[t.ID] = true
	}
	var all, own []int
	tasks := map[string]bool{}
	for i, e := range set.Episodes() {
		all = append(all, i)
		tasks[e.Task] = true
		if mine[e.Task] {
			known = true
			own = append(own, i)
		}
	}
	if known {
		if n := len(all) - len(own); n > 0 {
			r.Terminal.Warn("%s of other tasks than the run's are left out", report.Count(n, "episode"))
		}
		return set, own, nil
	}
	if space.Env != "" && space.Env == s.EnvInfo.Name {
		names := make([]string, 0, len(tasks))
		for t := range tasks {
			names = append(names, t)
		}
		sort.Strings(names)
		return fail(plugins.Errorf(plugins.Mismatch, "its episodes are of other tasks: %s", strings.Join(names[:min(3, len(names))], ", ")).WithPlace("%s", dir).WithHint("--task '%s'", names[0]))
	}
	return set, all, nil
}

// successes are the successful ones of the episodes, at most imitate.demos a task where that is given.
func (r *run) successes(set dataset.Set, picked []int) ([]int, error) {
	most := math.MaxInt
	if n := r.cfg.Imitate.Demos; n > 0 && r.cfg.Chosen("imitate.demos") {
		most = n
	}
	var out []int
	byTask, failed := map[string]int{}, 0
	for _, i := range picked {
		e := set.Episodes()[i]
		if e.Success == nil || !*e.Success {
			failed++
		} else if byTask[e.Task]++; byTask[e.Task] <= most {
			out = append(out, i)
		}
	}
	if len(out) == 0 {
		return nil, plugins.Errorf(plugins.Invalid, "none of the %d episodes is a success", failed).WithPlace("%s", r.cfg.Imitate.Data).
			WithHint("record successes; for a LeRobot data set of demonstrations: --set data.success=all")
	}
	return out, nil
}

// recorded reads episodes of a set one after the other, with the cameras that the policy looks through. weights are by episode; nil: none.
func (r *run) recorded(ctx context.Context, set dataset.Set, picked []int, weights map[int][]float32) func(yield func(policy.Demonstration, error) bool) {
	dim := r.session.Sched.EnvSpec.Action.Dim()
	return func(yield func(policy.Demonstration, error) bool) {
		for _, i := range picked {
			d, err := set.Demonstration(ctx, i, r.session.PolicyCameras)
			if ctx.Err() != nil {
				err = plugins.Errorf(plugins.Canceled, "stopped while episodes were read")
			}
			if err == nil && (len(d.Actions.Shape) != 2 || d.Actions.Shape[1] != dim) {
				err = plugins.Errorf(plugins.Mismatch, "actions are %v, those of %s have %d numbers", d.Actions.Shape, r.session.Sched.EnvName, dim).WithPlace("episode %s", d.ID).WithHint("name the env in which they were recorded: --env NAME")
			}
			if err == nil {
				err = r.proprioFits(d)
			}
			if weights != nil {
				d.Weights = weights[i]
			}
			if !yield(d, err) || err != nil {
				return
			}
		}
	}
}

// proprioFits refuses an episode whose proprio is not what the policy was told of.
func (r *run) proprioFits(d policy.Demonstration) error {
	want := len(r.session.Sched.EnvSpec.Proprio)
	have := 0
	if !d.Proprio.IsZero() {
		have = d.Proprio.Shape[1]
	}
	if !r.session.Sched.PolicySpec.Proprio || have == want {
		return nil
	}
	return plugins.Errorf(plugins.Mismatch, "its proprio has %d numbers, %s gives %d (%s)", have, r.session.Sched.EnvName, want, strings.Join(r.session.Sched.EnvSpec.Proprio, ", ")).
		WithPlace("episode %s", d.ID).WithHint("record with this env; for a LeRobot data set name the feature: --set data.state=FEATURE")
}

// weigh gives every step of the episodes its weight.
func (r *run) weigh(ctx context.Context, set dataset.Set, picked []int) (*lessons, error) {
	out, list := &lessons{}, set.Episodes()
	if r.cfg.Offline.Weights == "progress" {
		if err := r.byProgress(ctx, set, picked, out); err != nil {
			return nil, err
		}
	} else {
		for _, i := range picked {
			w := make([]float32, list[i].Steps)
			for t := range w {
				if r.cfg.Offline.Weights == "uniform" || list[i].Success != nil && *list[i].Success {
					w[t] = 1
				}
			}
			out.list = append(out.list, lesson{i, w})
		}
	}
	// A mean of 1 keeps what the policy's learning rate means.
	var sum, squares float64
	for _, l := range out.list {
		out.steps += len(l.weights)
		for _, w := range l.weights {
			sum += float64(w)
			squares += float64(w) * float64(w)
		}
		if s := list[l.episode].Success; s != nil && *s {
			out.successes++
		}
	}
	if sum == 0 {
		return nil, plugins.Errorf(plugins.Invalid, "no step of %d episodes has a weight above 0", len(out.list)).WithPlace("%s", r.cfg.Offline.Data).WithHint("record some successes, or use --set offline.weights=uniform")
	}
	mean := sum / float64(out.steps)
	out.effective = sum * sum / (squares * float64(out.steps))
	for _, l := range out.list {
		for t := range l.weights {
			l.weights[t] /= float32(mean)
			out.largest = max(out.largest, float64(l.weights[t]))
		}
	}
	return out, nil
}

// byProgress weighs by the episodes' progress curves.
func (r *run) byProgress(ctx context.Context, set dataset.Set, picked []int, out *lessons) error {
	began, list := time.Now(), set.Episodes()
	curves, err := r.curves(ctx, set, picked)
	if err != nil {
		return err
	}
	byID := map[string]audit.Curve{}
	for _, c := range curves {
		byID[c.ID] = c
	}
	var stepwise []srpo.Curve
	var of []int
	for _, i := range picked {
		if c, ok := byID[list[i].ID]; ok && list[i].Steps > 0 {
			stepwise, of = append(stepwise, srpo.Curve{ID: list[i].ID, Progress: atSteps(c, list[i].Steps)}), append(of, i)
		}
	}
	if len(of) == 0 {
		return plugins.Errorf(plugins.Invalid, "none of the %d episodes has a progress curve", len(picked)).WithPlace("%s", r.cfg.Offline.Data).
			WithHint("curves of failures need at least one success of the same task, and every clip two frames; record more, or use --set offline.weights=uniform")
	}
	if out.dropped = len(picked) - len(of); out.dropped > 0 {
		r.Terminal.Warn("%s without a progress curve are left out: clips that cannot be embedded, or failures of a task without a success", report.Count(out.dropped, "episode"))
	}
	advantages, err := srpo.ProgressAdvantages(stepwise, srpo.DefaultAdvantageOptions().Eps)
	if err != nil {
		return plugins.Errorf(plugins.Internal, "%w", err)
	}
	var sum, n [2]float64 // of failures, successes
	steps, clipped := 0, 0
	for k, a := range advantages {
		w, side := make([]float32, len(a)), 0
		if s := list[of[k]].Success; s != nil && *s {
			side = 1
		}
		for t, v := range a {
			x := srpo.RegressionWeight(v, r.cfg.Offline.Temperature, r.cfg.Offline.MostWeight)
			if x >= r.cfg.Offline.MostWeight {
				clipped++
			}
			w[t] = float32(x)
			sum[side] += v
			n[side]++
		}
		steps += len(w)
		out.list = append(out.list, lesson{of[k], w})
	}
	out.clipped = float64(clipped) / float64(max(1, steps))
	out.failureAdvantge, out.successAdvantage = sum[0]/max(1, n[0]), sum[1]/max(1, n[1])
	out.embedding = time.Since(began).Seconds()
	return nil
}

// curves embeds the growing windows of the episodes' clips, as srpo reward --curves does, and measures them against the successes among them.
func (r *run) curves(ctx context.Context, set dataset.Set, picked []int) ([]audit.Curve, error) {
	episodes := set.Episodes()
	list := &attempts.List{Source: r.cfg.Offline.Data}
	for _, i := range picked {
		e := episodes[i]
		list.Attempts = append(list.Attempts, attempts.Attempt{ID: e.ID, Task: e.Task, Success: e.Success, Video: e.ID})
	}
	cache := &embed.Cache{Dir: r.Cache}
	if r.Cache == "" {
		dir, err := os.MkdirTemp("", "srpo-embeddings-")
		if err != nil {
			return nil, plugins.Errorf(plugins.Exhausted, "a folder for this call: %w", err).WithHint("make room in the temporary folder")
		}
		defer os.RemoveAll(dir)
		cache.Dir = dir
	}
	c := &embed.Clips{List: list, Cache: cache, Terminal: r.Terminal, Source: func(ctx context.Context, k int) (media.Clip, error) { return set.Clip(ctx, picked[k]) }}
	if err := c.Scan(ctx); err != nil {
		return nil, err
	}
	s := r.session
	e := &embed.Embedder{Encoder: s.Encoder, Identity: embed.Identity(s.Encoder.Info, s.Encoder.Record.Hash, s.Encoder.Settings, s.Encoder.Spec), Clips: c, Cache: cache}
	v, err := e.EmbedAll(ctx, embed.WithWindows, r.cfg.Offline.Windows)
	if err != nil {
		return nil, err
	}
	var items []audit.Item
	for k, a := range list.Attempts {
		if a.Problem == "" && v[k].Problem == "" && len(v[k].Clip) > 0 && !embed.NotFinite(v[k].Clip) {
			items = append(items, audit.Item{ID: a.ID, Task: a.Task, Success: a.Success, Frames: c.Info[k].Frames, Embedding: v[k].Clip, Ends: v[k].Ends, Windows: v[k].Windows})
		} else {
			r.event(store.Event{Type: store.Dropped, Message: fmt.Sprintf("%s: %s%s", a.ID, a.Problem, v[k].Problem)})
		}
	}
	curves, err := audit.Curves(items, r.cfg.RewardOptions(s.Encoder.Spec.Dimension).Cluster, audit.Scale(r.cfg.Offline.Scale))
	if err != nil {
		return nil, plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("%s", r.cfg.Offline.Data)
	}
	// The windows' ends, in frames, become the env steps after which their last frames were seen.
	index := map[string]int{}
	for k, a := range list.Attempts {
		index[a.ID] = k
	}
	for n := range curves {
		k := index[curves[n].ID]
		curves[n].Ends = endSteps(curves[n].Ends, c.Info[k].Frames, set.Every(), episodes[picked[k]].Steps)
	}
	return curves, nil
}

// endSteps turns windows' ends in frames into env steps: frame k was recorded after k*every steps. A clip that was thinned because it is long is spread evenly.
func endSteps(ends []int, frames, every, steps int) []int {
	out := make([]int, len(ends))
	for j, end := range ends {
		if out[j] = (end - 1) * every; frames > 1 && frames != 1+steps/every && frames != 1+(steps-1)/every {
			out[j] = (end - 1) * steps / (frames - 1)
		}
	}
	return out
}

// atSteps gives a curve a value after every env step, R_0 to R_T: the line through the values of its windows, each at the step of its last frame, in Ends,
// flat before the first window and after the last.
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
