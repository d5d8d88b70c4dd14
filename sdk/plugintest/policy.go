package plugintest

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// policyRun is the state that the policy checks share.
type policyRun struct {
	policy   policy.Policy
	settings map[string]any
	env      plugins.EnvSpec
	action   plugins.ActionSpace
	spec     policy.Spec
	folder   string
	updates  uint64
}

// Policy returns the checks of a policy that is not configured yet. The second check configures it. spec describes
// an env in which the policy can act, and folder is an existing folder into which it saves. Run the checks in
// order.
func Policy(p policy.Policy, settings map[string]any, spec plugins.EnvSpec, folder string) []Check {
	r := &policyRun{policy: p, settings: settings, env: spec, folder: folder}
	ready := func(run func(ctx context.Context) error) func(context.Context) error {
		return func(ctx context.Context) error {
			if r.spec.Chunk == 0 {
				return Skip("the policy was not configured")
			}
			return run(ctx)
		}
	}
	return []Check{
		info(p, plugins.Policy),
		{"Describe fits the env", r.configure},
		{"Act returns chunks of finite actions within their range, with log-probabilities", ready(r.act)},
		{"a result depends on observation and seed, not on the batch", ready(r.batch)},
		{"Imitate lowers its loss", ready(r.imitate)},
		{"an update starts at ratio 1 and is applied once", ready(r.update)},
		{"the policy acts the same after Save and Load", ready(r.save)},
		{"BeginRun keeps the weights and resets the optimiser", ready(r.beginRun)},
	}
}

func (r *policyRun) configure(ctx context.Context) error {
	s, err := resolve(ctx, r.policy, r.settings)
	if err != nil {
		return err
	}
	c := plugins.Config{Settings: s, Seed: 1, WorldSize: 1, Env: &r.env, Scratch: r.folder}
	if err := r.policy.Configure(ctx, c); err != nil {
		return err
	}
	spec, err := r.policy.Describe(ctx)
	if err != nil {
		return err
	}
	if r.action = r.env.Action; spec.Action.Dim() > 0 {
		if err := r.env.Action.Fits(spec.Action); err != nil {
			return err
		}
	}
	r.spec = spec
	return nil
}

// item makes the i-th trajectory's observation at a step.
func (r *policyRun) item(i int, step int) policy.Item {
	o := env.Observation{Images: map[string]plugins.Tensor{}, Instruction: fmt.Sprintf("pick up block %d", i%2)}
	for _, c := range r.spec.Cameras {
		name, h, w := c.Name, c.Height, c.Width
		if name == "" {
			name = r.env.RecordCamera
		}
		for _, ec := range r.env.Cameras {
			if ec.Name == name && h == 0 {
				h, w = ec.Height, ec.Width
			}
		}
		k := clip(int64(100*i+step), 1, h, w)
		o.Images[name] = plugins.Bytes(k.Data, h, w, 3)
	}
	if r.spec.Proprio {
		v := make([]float32, len(r.env.Proprio))
		for j := range v {
			v[j] = float32(math.Sin(float64(i*7 + j + step)))
		}
		o.Proprio = plugins.Floats(v)
	}
	return policy.Item{
		Trajectory:  fmt.Sprintf("0/task/%d/0", i),
		Step:        step,
		Observation: o,
		Seed:        uint64(1000*i + step),
	}
}

func (r *policyRun) ask(ctx context.Context, a policy.Act) ([]policy.Result, error) {
	if a.Temperature == 0 {
		a.Temperature = 1
	}
	out, err := r.policy.Act(ctx, a)
	if err != nil {
		return nil, err
	}
	if len(out) != len(a.Items) {
		return nil, wants("return one result per item", "%d results for %d items", len(out), len(a.Items))
	}
	dim := r.action.Dim()
	for i, res := range out {
		if err := res.Actions.Check("actions", plugins.Float32, r.spec.Chunk, dim); err != nil {
			return nil, err
		}
		if len(res.LogProbs) != r.spec.Chunk && (r.spec.Trainable || len(res.LogProbs) > 0) {
			return nil, wants("return one log-probability per chunk position",
				"item %d has %d log-probabilities for a chunk of %d", i,
				len(res.LogProbs), r.spec.Chunk)
		}
		for j, x := range res.Actions.Float32s() {
			if !(x >= r.action.Low[j%dim]-1e-6 && x <= r.action.High[j%dim]+1e-6) {
				return nil, wants("clip to the action space", "item %d: action %q is %v, the range is [%g, %g]", i,
					r.action.Names[j%dim], x, r.action.Low[j%dim], r.action.High[j%dim])
			}
		}
		for _, x := range res.LogProbs {
			if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
				return nil, wants("compute it from the logits, not from the clipped action",
					"item %d has log-probability %v", i, x)
			}
		}
	}
	return out, nil
}

func (r *policyRun) act(ctx context.Context) error {
	_, err := r.ask(ctx, policy.Act{Items: []policy.Item{r.item(0, 0), r.item(1, 0)}})
	return err
}

func (r *policyRun) batch(ctx context.Context) error {
	for _, greedy := range []bool{false, true} {
		alone, err := r.ask(ctx, policy.Act{Items: []policy.Item{r.item(0, 0)}, Greedy: greedy})
		if err != nil {
			return err
		}
		mixed, err := r.ask(ctx,
			policy.Act{Items: []policy.Item{r.item(2, 8), r.item(0, 0), r.item(1, 0)}, Greedy: greedy})
		if err != nil {
			return err
		}
		if !reflect.DeepEqual(alone[0], mixed[1]) {
			return wants("compute each item by itself, and seed its sampling from its own seed",
				"an item's result changes with the batch (greedy %t)", greedy)
		}
		other := r.item(0, 0)
		other.Seed++
		again, err := r.ask(ctx, policy.Act{Items: []policy.Item{other}, Greedy: greedy})
		if err != nil {
			return err
		}
		if same := reflect.DeepEqual(alone[0].Actions, again[0].Actions); greedy && !same {
			return wants("ignore the seed when greedy", "a greedy action changes with the seed")
		} else if !greedy && same && r.spec.Trainable {
			return wants("sample from the seed", "another seed gave the same sample")
		}
	}
	return nil
}

func (r *policyRun) imitate(ctx context.Context) error {
	im, ok := r.policy.(policy.Imitator)
	if !ok || !r.spec.CanImitate {
		return Skip("the policy does not imitate")
	}
	const steps = 16
	d := policy.Demonstration{
		ID:          "demo",
		Instruction: "pick up block 0",
		Success:     true,
		Images:      map[string]plugins.Tensor{},
	}
	first := r.item(0, 0)
	for name, img := range first.Observation.Images {
		c := clip(5, steps, img.Shape[0], img.Shape[1])
		d.Images[name] = c
	}
	var proprio, actions []float32
	for t := range steps {
		for j := range r.env.Proprio {
			proprio = append(proprio, float32(math.Sin(float64(t+j))))
		}
		for j := range r.action.Names {
			actions = append(
				actions,
				(r.action.Low[j]+r.action.High[j])/2+0.3*(r.action.High[j]-r.action.Low[j])*float32(
					math.Cos(float64(t+j))),
			)
		}
	}
	if r.spec.Proprio {
		d.Proprio = plugins.Floats(proprio, steps, len(r.env.Proprio))
	}
	d.Actions = plugins.Floats(actions, steps, r.action.Dim())
	var losses []float64
	r.updates++
	err := im.Imitate(ctx, policy.Imitate{ID: r.updates, Seed: 1, Steps: 60},
		func(yield func(policy.Demonstration, error) bool) { yield(d, nil) },
		func(_, loss float64) { losses = append(losses, loss) })
	if err != nil {
		return err
	}
	if len(losses) < 2 {
		return wants("report the loss several times", "Imitate reported its loss %d times", len(losses))
	}
	if first, last := losses[0], losses[len(losses)-1]; !(last < first) {
		return wants("check the sign and the learning rate",
			"the loss went from %g to %g in 60 steps on one demonstration", first, last)
	}
	return nil
}

// recorded acts in four trajectories and returns an update from them, without an ID.
func (r *policyRun) recorded(ctx context.Context) (policy.Update, error) {
	u := policy.Update{
		Temperature:     1,
		Seed:            1,
		Hyperparameters: policy.Hyperparameters{ClipLow: 0.2, ClipHigh: 0.28, Epochs: 1},
	}
	if err := r.policy.Forget(ctx, nil); err != nil {
		return u, err
	}
	for i := range 4 {
		items := []policy.Item{r.item(i, 0), r.item(i, r.spec.Chunk)}
		if _, err := r.ask(ctx, policy.Act{Items: items, Record: true}); err != nil {
			return u, err
		}
		u.Trajectories = append(
			u.Trajectories,
			policy.Advantage{
				Trajectory: r.item(i, 0).Trajectory,
				Values:     []float64{float64(2*(i%2) - 1)},
				Steps:      r.spec.Chunk + 1,
			},
		)
	}
	return u, nil
}

func (r *policyRun) update(ctx context.Context) error {
	if !r.spec.Trainable {
		return Skip("the policy is not trainable")
	}
	u, err := r.recorded(ctx)
	if err != nil {
		return err
	}
	bad := u
	bad.ID = r.updates + 1
	bad.Trajectories = append([]policy.Advantage{}, u.Trajectories...)
	bad.Trajectories[0].Values = []float64{math.NaN()}
	if _, err := r.policy.Update(ctx, bad, nil); err == nil {
		return wants("check the advantages first", "an advantage of NaN was accepted")
	}
	bad.Trajectories[0] = policy.Advantage{Trajectory: "never/seen/0/0", Values: []float64{1}, Steps: 1}
	if _, err := r.policy.Update(ctx, bad, nil); err == nil {
		return wants("return an error for a trajectory that was not recorded",
			"an update from a trajectory that was never recorded was accepted")
	}
	r.updates++
	u.ID = r.updates
	st, err := r.policy.Update(ctx, u, nil)
	if err != nil {
		return err
	}
	if math.Abs(st.FirstRatio-1) > 1e-5 {
		return wants("compute log-probabilities in Act and in Update in the same way",
			"the ratio on the first mini-batch is %v, want 1 to 1e-5", st.FirstRatio)
	}
	before, err := r.ask(ctx, policy.Act{Items: []policy.Item{r.item(0, 0)}, Greedy: true})
	if err != nil {
		return err
	}
	again, err := r.policy.Update(ctx, u, nil)
	if err != nil {
		return err
	}
	after, err := r.ask(ctx, policy.Act{Items: []policy.Item{r.item(0, 0)}, Greedy: true})
	if err != nil {
		return err
	}
	if !again.AlreadyApplied || !reflect.DeepEqual(before, after) {
		return wants("keep the IDs of applied updates", "update id %d was applied a second time", u.ID)
	}
	return nil
}

func (r *policyRun) save(ctx context.Context) error {
	folder := filepath.Join(r.folder, "saved")
	if err := os.Mkdir(folder, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	if err := r.policy.Save(ctx, folder); err != nil {
		return err
	}
	act := policy.Act{Items: []policy.Item{r.item(0, 0), r.item(1, 3)}}
	before, err := r.ask(ctx, act)
	if err != nil {
		return err
	}
	if r.spec.CanImitate {
		if err := r.imitate(ctx); err != nil { // changes the weights
			return err
		}
	}
	id, err := r.policy.Load(ctx, folder)
	if err != nil {
		return err
	}
	if r.spec.Trainable && id > r.updates {
		return wants("save the IDs of applied updates", "Load returned update %d, %d were made", id, r.updates)
	}
	after, err := r.ask(ctx, act)
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(before, after) {
		return wants("save all weights in full precision", "the policy acts differently after Save and Load")
	}
	if _, err := r.policy.Load(ctx, filepath.Join(r.folder, "does not exist")); err == nil {
		return wants("return an error", "Load accepted a folder that does not exist")
	}
	return nil
}

// learn applies one update with a KL penalty.
func (r *policyRun) learn(ctx context.Context) error {
	u, err := r.recorded(ctx)
	if err != nil {
		return err
	}
	r.updates++
	u.ID, u.Hyperparameters.KLBeta = r.updates, 0.01
	st, err := r.policy.Update(ctx, u, nil)
	if err != nil {
		return err
	}
	if st.AlreadyApplied {
		return wants("keep the IDs of the updates in the folder and no others",
			"update %d was taken for one that was applied before", u.ID)
	}
	if math.Abs(st.FirstRatio-1) > 1e-5 || math.IsNaN(st.KL) || math.IsInf(st.KL, 0) {
		return wants("make the loaded weights the reference policy, and reset the optimiser",
			"the first ratio of an update is %v, its KL %v", st.FirstRatio, st.KL)
	}
	return nil
}

// beginRun does not require a KL of 0: a policy that is not a RunBeginner continues with the saved reference policy.
func (r *policyRun) beginRun(ctx context.Context) error {
	if !r.spec.Trainable {
		return Skip("the policy is not trainable")
	}
	if err := r.learn(ctx); err != nil { // so that the optimiser has moments and the reference differs from the weights
		return err
	}
	folder := filepath.Join(r.folder, "begin")
	if err := os.Mkdir(folder, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	if err := r.policy.Save(ctx, folder); err != nil {
		return err
	}
	act := policy.Act{Items: []policy.Item{r.item(0, 0), r.item(1, 3)}, Greedy: true}
	before, err := r.ask(ctx, act)
	if err != nil {
		return err
	}
	whole, err := r.policy.Load(ctx, folder)
	if err != nil {
		return err
	}
	if err := r.learn(ctx); err != nil { // changes the weights
		return err
	}
	id, err := policy.BeginRun(ctx, r.policy, folder)
	if err != nil {
		return err
	}
	if id != whole {
		return wants("keep the IDs of updates in BeginRun", "Load returned update %d, BeginRun %d", whole, id)
	}
	after, err := r.ask(ctx, act)
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(before, after) {
		return wants("load all weights and statistics", "the policy acts differently after BeginRun")
	}
	return r.learn(ctx)
}
