package config

import (
	"fmt"

	"github.com/srpo-dev/srpo/plugins"
)

// section is a section of srpo.toml with settings of the host.
type section struct {
	Name, Doc string
	fields    []field
}

// field is a declared setting with a pointer to its value.
type field struct {
	plugins.Setting
	at any
	// open excludes Min and Max themselves.
	open bool
}

func (f field) store(v any) {
	switch at := f.at.(type) {
	case *bool:
		*at = v.(bool)
	case *int:
		*at = int(v.(int64))
	case *uint64:
		*at = uint64(v.(int64))
	case *float64:
		*at = v.(float64)
	case *string:
		*at = v.(string)
	case *[]string:
		*at = append([]string(nil), v.([]string)...)
	}
}

func (f field) load() any {
	switch at := f.at.(type) {
	case *bool:
		return *at
	case *int:
		return int64(*at)
	case *uint64:
		return int64(*at)
	case *float64:
		return *at
	case *string:
		return *at
	}
	return append([]string(nil), *f.at.(*[]string)...)
}

func (f field) check(a assignment) (any, error) {
	v, err := a.check(f.Setting)
	if err != nil {
		return nil, err
	}
	if x, ok := v.(float64); ok && f.open && (f.Min != nil && x == *f.Min || f.Max != nil && x == *f.Max) {
		return nil, plugins.Errorf(plugins.Invalid, "setting %q cannot be %v", f.Name, x).
			WithHint("allowed: %s", f.bounds())
	}
	return v, nil
}

// bounds describes the allowed numbers; empty: any number.
func (f field) bounds() string {
	than := [2]string{" or more", " or less"}
	if f.open {
		than = [2]string{"above ", "below "}
	}
	switch {
	case f.Min != nil && f.Max != nil && f.open:
		return fmt.Sprintf("above %v, below %v", *f.Min, *f.Max)
	case f.Min != nil && f.Max != nil:
		return fmt.Sprintf("%v to %v", *f.Min, *f.Max)
	case f.Min != nil && f.open:
		return fmt.Sprintf("%s%v", than[0], *f.Min)
	case f.Min != nil:
		return fmt.Sprintf("%v%s", *f.Min, than[0])
	case f.Max != nil && f.open:
		return fmt.Sprintf("%s%v", than[1], *f.Max)
	case f.Max != nil:
		return fmt.Sprintf("%v%s", *f.Max, than[1])
	}
	return ""
}

func setting(at any, name string, def any, doc string) field {
	return field{Setting: plugins.Setting{Name: name, Default: def, Doc: doc}, at: at}
}

func (f field) from(low float64) field { f.Min = plugins.Bound(low); return f }
func (f field) within(low, high float64) field {
	f.Min, f.Max = plugins.Bound(low), plugins.Bound(high)
	return f
}
func (f field) between(low, high float64) field {
	f = f.within(low, high)
	f.open = true
	return f
}
func (f field) above(low float64) field   { f = f.from(low); f.open = true; return f }
func (f field) choices(c ...string) field { f.Choices = c; return f }

// many bounds counts, so that a typo cannot ask for more than any machine has.
const many = 1e9

// declare lists every setting of the host, with default, bounds and meaning.
func (c *Config) declare() []section {
	n := func(v int64) any { return v }
	return []section{
		{"run", "What to run, for how long, and where the results go.", []field{
			setting(&c.Run.Env, "env", "tabletop",
				"The env plugin. Its own settings go into [env.NAME]; `srpo plugin list NAME` prints them."),
			setting(&c.Run.Policy, "policy", "tiny",
				"The policy plugin. Its settings go into [policy.NAME]."),
			setting(&c.Run.Encoder, "encoder", "pixel",
				"The encoder plugin: the frozen model that embeds the video of a rollout. Its settings go "+
					"into [encoder.NAME]."),
			setting(&c.Run.Task, "task", []string{},
				"Patterns over task ids; * matches any part of an id. The run trains on every task that "+
					"matches one of them. Empty: the env's first task."),
			setting(&c.Run.Seed, "seed", n(0),
				"The seed of all random numbers of the run.").from(0),
			setting(&c.Run.Iterations, "iterations", n(20),
				"The number of iterations: rollouts, rewards, update, commit.").within(0, many),
			setting(&c.Run.SolvedAfter, "solved_after", n(2),
				"End the run early after this many iterations in a row in which every group succeeded above "+
					"keep_high, so that there was nothing to learn from. 0: do not.").within(0, many),
			setting(&c.Run.Checkpoint, "checkpoint", "",
				"The policy folder, checkpoint or run to start from. Its weights are used, with a new "+
					"optimiser, and KL is measured to them. Empty: first train on demonstrations, see [imitate]."),
			setting(&c.Run.Lanes, "lanes", n(0),
				"The number of episodes that run at the same time. 0: chosen by env and cores. It does not "+
					"change the results.").within(0, 4096),
			setting(&c.Run.Out, "out", "",
				"The run folder. Empty: runs/NAME."),
			setting(&c.Run.Name, "name", "",
				"The name of the run. Empty: made from env, policy, reward and time."),
			setting(&c.Run.TensorBoard, "tensorboard", false,
				"Write TensorBoard event files into the run folder."),
			setting(&c.Run.Videos, "videos", n(6),
				"Episodes saved as video per iteration.").within(0, many),
			setting(&c.Run.EvalEvery, "eval_every", n(10),
				"Evaluate greedily before the first iteration, after every this many iterations, and after "+
					"the last one. 0: never. The published runs use 5.").within(0, many),
			setting(
				&c.Run.EvalEpisodes, "eval_episodes", n(50),
				"Episodes per evaluation, spread over the tasks. 0: every start state of the split once. More "+
					"than there are start states repeats some, and the intervals are then too narrow.").within(0, many),
			setting(&c.Run.Keep, "keep", n(3),
				"The number of newest checkpoints to keep. The one with the highest success rate is kept in "+
					"addition.").within(1, many),
			setting(&c.Run.KeepClips, "keep_clips", "none",
				"Which recorded frames to keep in the run folder, for srpo reward: none, those of failures, "+
					"or all.").choices("none", "failures", "all"),
			setting(&c.Run.KeepEmbeddings, "keep_embeddings", false,
				"Keep the embedding of every episode in the run folder, for srpo reward with another form of "+
					"reward."),
			setting(&c.Run.KeepTrajectories, "keep_trajectories", "none",
				"Which episodes' observations and actions, one per env step, to keep in the run folder with "+
					"their clips, for offline learning or export: none, those of successes, or all. Every step is "+
					"then rendered.").choices("none", "successes", "all"),
		}},
		{"rollout", "How groups of episodes are sampled.", []field{
			setting(&c.Rollout.Groups, "groups", n(0),
				"Groups per iteration, distributed over the tasks. 0: 16 if one env process holds many lanes, "+
					"4 if every lane is a process of its own.").within(0, many),
			setting(&c.Rollout.GroupSize, "group_size", n(8),
				"Episodes per group, M in the paper. Advantages are normalised within a group.").within(2, many),
			setting(&c.Rollout.Temperature, "temperature", 1.0,
				"Sampling temperature of the policy. The published OpenVLA-OFT runs use 1.6.").above(0),
			setting(&c.Rollout.RecordEvery, "record_every", n(0),
				"Env steps between two frames that are recorded for the encoder. 1 is the behaviour of the "+
					"reference implementation. 0: 4, or 8 for an env with one process per lane, whose frames are "+
					"expensive.").within(0, many),
			setting(&c.Rollout.MaxSteps, "max_steps", n(0),
				"Env steps after which an episode is truncated. 0: the task's own limit.").within(0, many),
			setting(&c.Rollout.KeepLow, "keep_low", 0.1,
				"A group with a success rate outside keep_low to keep_high is replaced by a new one (dynamic "+
					"sampling).").within(0, 1),
			setting(&c.Rollout.KeepHigh, "keep_high", 0.9,
				"See keep_low. 0 and 1 keep every group.").within(0, 1),
			setting(
				&c.Rollout.ExtraGroups,
				"extra_groups",
				n(-1),
				"The largest number of replacement groups per iteration. -1: half as many as groups.",
			).within(-1, many),
			setting(&c.Rollout.StartStates, "start_states", "all",
				"Start states to train on: all, or one side of the split by train_fraction. Evaluations of "+
					"\"train\" use \"test\" and vice versa.").choices("all", "train", "test"),
			setting(&c.Rollout.TrainFraction, "train_fraction", 0.5,
				"The share of every task's start states on the train side. The seed chooses which.").between(0, 1),
			setting(&c.Rollout.Split, "split", "auto",
				"What train_fraction divides: the start states of each task (start), or the tasks, with the "+
					"same share of every suite and dimension of the env (task). auto: task if every task has a "+
					"single start state.").choices("auto", "start", "task"),
			setting(&c.Rollout.Weights, "weights", []string{},
				"Weights of dimensions, such as \"camera=2\": a group draws its dimension by weight, then one "+
					"of its tasks. Dimensions that are not named have weight 1; 0 leaves one out. Empty: tasks in "+
					"turn."),
			setting(&c.Rollout.EqualLength, "equal_length", "none",
				"Clips for the encoder: as they are (none), all cut to the shortest of the group (cut), or "+
					"the last frame repeated up to the longest (hold). A success ends early, so length alone can "+
					"reveal it.").choices("none", "cut", "hold"),
			setting(
				&c.Rollout.GroupBy,
				"group_by",
				"task",
				"Episodes of a group share a task (task), or a task and its start state (start).",
			).choices("task", "start"),
		}},
		{
			"reward",
			"The reward of an episode: 1.0 for a success; less for a failure, by the distance of its embedding " +
				"to the centres of the successes.",
			[]field{
				setting(&c.Reward.Kind, "kind", "zscore",
					"zscore: alpha*sigmoid(-(d - mean)/std), the paper's. minmax: the reference implementation's. "+
						"anchored: d against a fixed reference distance of the task. binary: 0 or 1, which is GRPO. "+
						"progress: alpha times the env's own progress, a control for what a perfect encoder could "+
						"give.").choices("zscore", "minmax", "anchored", "binary", "progress"),
				setting(&c.Reward.Alpha, "alpha", 0.8,
					"The upper bound of a failure's reward, for zscore, anchored and progress. Even at 1 a "+
						"failure gets less than a success. 0.8 is the best value of the paper's ablation of 0, 0.3, "+
						"0.5, 0.8 and 1.").within(0, 1),
				setting(&c.Reward.Cluster, "cluster", "auto",
					"Centres of the successes: auto (DBSCAN, eps from the data), reference (standardised, eps "+
						"0.5, min 2), mean (one centre), nearest (every success is a centre).").
					choices("auto", "reference", "mean", "nearest"),
				setting(&c.Reward.References, "references", "batch",
					"Which embeddings are clustered: successes of this batch (batch), of earlier iterations too "+
						"(memory), or only the demonstrations of the env's expert (demos), which also give rewards "+
						"before the first success.").choices("batch", "memory", "demos"),
				setting(&c.Reward.Weight, "weight", 1.0,
					"Factor on every reward before the advantage.").above(0),
				setting(&c.Reward.Eps, "eps", 1e-8,
					"Added to the variance of a group's rewards before they are divided by its root. With the "+
						"small default, a group of failures counts as much as one with a success, however little its "+
						"rewards differ. 0.01 to 0.1 gives it less weight.").within(1e-300, 1e6),
			},
		},
		{"update", "The policy update: PPO's clipped objective with a KL term to the starting policy.", []field{
			setting(&c.Update.ClipLow, "clip_low", 0.4,
				"The ratio is clipped below at 1 - clip_low. The published OpenVLA-OFT runs use 0.2. The tiny "+
					"policy learns faster with a larger value.").between(0, 1),
			setting(&c.Update.ClipHigh, "clip_high", 0.5,
				"The ratio is clipped above at 1 + clip_high. The published OpenVLA-OFT runs use 0.28.").above(0),
			setting(&c.Update.ClipDual, "clip_dual", 3.0,
				"Bounds the loss of a negative advantage at clip_dual times the advantage. 0: no bound.").from(0),
			setting(&c.Update.KLBeta, "kl_beta", 0.01,
				"Weight of KL(pi || pi_ref). 0 turns it off, as the reference implementation does in "+
					"practice.").from(0),
			setting(&c.Update.Epochs, "epochs", n(2),
				"Passes over the trajectories of an iteration.").within(1, many),
			setting(&c.Update.MiniBatch, "mini_batch", n(0),
				"Action chunks per mini-batch. 0: the policy's own choice.").within(0, many),
		}},
		{
			"imitate",
			"The starting policy, if run.checkpoint is empty: supervised training on demonstrations.",
			[]field{
				setting(&c.Imitate.Demos, "demos", n(1),
					"Demonstrations per task. 1 is the paper's one-shot policy. 0: none; the policy starts from "+
						"its initial weights.").within(0, many),
				setting(&c.Imitate.Steps, "steps", n(0),
					"Gradient steps. 0: the policy's own choice.").within(0, many),
				setting(&c.Imitate.Noise, "noise", 0.0,
					"Standard deviation of Gaussian noise on the expert's actions, in action units. The policy "+
						"learns the actions that the expert intended, so it sees how to recover (DART, arXiv "+
						"1703.09327).").from(0),
				setting(&c.Imitate.Data, "data", "",
					"Imitate the successful episodes of this folder instead of the env's expert: a run folder or "+
						"recording with trajectories, or a LeRobot data set. All of them, unless demos is set."),
			},
		},
		{
			"offline",
			"Offline learning from recorded episodes: advantage-weighted regression (arXiv 1910.00177) on the " +
				"differences of progress curves, the recipe of arXiv 2511.15605 for a real arm.",
			[]field{
				setting(&c.Offline.Data, "data", "",
					"The episodes: a run folder or recording with trajectories, or a LeRobot data set. Empty: the "+
						"run is online."),
				setting(&c.Offline.Weights, "weights", "progress",
					"The weight of a step in the regression. progress: min(exp(A/temperature), most_weight), with "+
						"A its progress standardised over all steps of all episodes. uniform: 1 for every step (a "+
						"control). success: 1 for steps of successes and 0 for those of failures (filtered cloning, a "+
						"control).").choices("progress", "uniform", "success"),
				setting(&c.Offline.Temperature, "temperature", 1.0,
					"Temperature of the weights. A smaller value follows the advantage more closely.").above(0),
				setting(&c.Offline.MostWeight, "most_weight", 20.0,
					"Upper bound of a step's weight; 20 as in AWR.").above(0),
				setting(&c.Offline.Windows, "windows", n(0),
					"Growing windows per progress curve. 0: 32 for encoders that embed single frames, 8 for "+
						"others.").within(0, many),
				setting(&c.Offline.Scale, "scale", "own",
					"The 0 and 1 of a curve: the smallest and largest distance of the episode (own, the paper's: "+
						"a failure reaches 1 too), or of all episodes of the task (task).").choices("own", "task"),
			},
		},
		{"data", "How a LeRobot data set is read and written.", []field{
			setting(&c.Data.Cameras, "cameras", []string{},
				"The env's cameras in the data set, each CAMERA=FEATURE, such as "+
					"\"agentview=observation.images.image\". Empty: matched by name, or the only one."),
			setting(&c.Data.Action, "action", "action",
				"The feature with the actions."),
			setting(&c.Data.State, "state", "observation.state",
				"The feature with the proprio vector."),
			setting(&c.Data.Success, "success", "auto",
				"Which episodes succeeded: all, none, a feature that is true at some step of a success, or "+
					"auto (the feature next.success if it exists, otherwise all)."),
			setting(&c.Data.FPS, "fps", 0.0,
				"Steps per second to write into an exported data set. 0: the env's rate.").from(0),
		}},
		{"report", "What a run measures of its own reward.", []field{
			setting(&c.Report.AuditEvery, "audit_every", n(5),
				"Measure after every this many iterations whether the reward still separates successes from "+
					"failures, with centres held out. 0: never.").within(0, many),
		}},
		{"host", "How the processes of the plugins are run.", []field{
			setting(&c.Host.Arena, "arena", "auto",
				"Send frames through shared memory (auto, if plugin and host are on one machine) or inside "+
					"messages (off). The results are the same.").choices("auto", "off"),
			setting(&c.Host.ArenaMB, "arena_mb", n(64),
				"Size of a plugin's shared memory, MiB.").within(1, 1<<20),
			setting(&c.Host.StartTimeoutS, "start_timeout_s", 120.0,
				"Seconds for a plugin to start, to answer Info, and to be configured.").above(0),
			setting(&c.Host.ResetTimeoutS, "reset_timeout_s", 120.0,
				"Seconds for an env's Reset.").above(0),
			setting(&c.Host.StepTimeoutS, "step_timeout_s", 60.0,
				"Seconds for an env's Step of one chunk.").above(0),
			setting(&c.Host.ActTimeoutS, "act_timeout_s", 120.0,
				"Seconds for a policy's Act on one batch.").above(0),
			setting(&c.Host.UpdateTimeoutS, "update_timeout_s", 3600.0,
				"Seconds in which a policy's Update or Imitate must report a thousandth of its progress.").above(0),
			setting(&c.Host.EncodeTimeoutS, "encode_timeout_s", 600.0,
				"Seconds for one run of an encoder's network on a batch of clips. The deadline of a call is "+
					"extended by each progress report. A ViT-g with 64 frames takes minutes on a CPU.").above(0),
			setting(&c.Host.SaveTimeoutS, "save_timeout_s", 600.0,
				"Seconds for a policy's Save or Load.").above(0),
			setting(&c.Host.SilenceTimeoutS, "silence_timeout_s", 60.0,
				"Seconds without a heartbeat during a call after which a plugin counts as stopped and is "+
					"replaced; five times that while it is configured. Both SDKs send heartbeats. 0: only "+
					"deadlines end calls.").from(0),
			setting(&c.Host.Patience, "patience", 3.0,
				"A call may take this many times its deadline while its plugin is working: heartbeats arrive "+
					"and its processes use the CPU, as when it compiles or loads a large checkpoint. 1 or less: "+
					"the deadline is final.").above(0),
			setting(&c.Host.PolicyProcesses, "policy_processes", n(1),
				"Processes that share the acting and learning of a policy (openvla, pi0, pi0-fast), one per "+
					"GPU, starting at its setting device. 0: one for every GPU, if the policy supports it. On a "+
					"CPU this is useful for trials only. A checkpoint does not depend on their number.").within(0,
				1024),
			setting(&c.Host.Restarts, "restarts", n(10),
				"Restarts of one plugin within restart_window_s before the run ends.").within(0, many),
			setting(&c.Host.RestartWindowS, "restart_window_s", 600.0,
				"See restarts; seconds.").above(0),
			setting(&c.Host.EnvAllow, "env_allow", []string{},
				"Environment variables that plugins get in addition to the few they always get (PATH, HOME, "+
					"LANG and the like). A * at the end matches any rest, and PLUGIN:NAME is for one plugin, as "+
					"in openvla:HF_TOKEN."),
			setting(&c.Host.PluginPath, "plugin_path", []string{},
				"Folders to search for plugins, before the usual ones."),
			setting(&c.Host.Python, "python", "",
				"The Python to make plugin environments with. Empty: the version that the plugin asks for, "+
					"searched on this machine."),
		}},
	}
}

// cross checks combinations of settings.
func (c *Config) cross(p *problems) {
	at := func(key, message, hint string) {
		p.add(c.places[key].unknown("%s", message).WithHint("%s", hint))
	}
	if c.Rollout.KeepLow > c.Rollout.KeepHigh {
		key := "rollout.keep_low"
		if _, given := c.places[key]; !given {
			key = "rollout.keep_high"
		}
		at(key, fmt.Sprintf("keep_low %v is above keep_high %v, so no group could be kept",
			c.Rollout.KeepLow, c.Rollout.KeepHigh), "set them to 0 and 1 to keep every group")
	}
	if c.Reward.References == "demos" && c.Imitate.Demos == 0 {
		at("reward.references", `references = "demos", but imitate.demos is 0: there is no demonstration`,
			"set imitate.demos to 1, or references to \"batch\" or \"memory\"")
	}
	for _, t := range c.Run.Task {
		if t == "" {
			at("run.task", "an empty task pattern matches nothing", `use ["*"] for every task`)
		}
	}
	for _, name := range []struct{ key, value string }{
		{"run.env", c.Run.Env}, {"run.policy", c.Run.Policy}, {"run.encoder", c.Run.Encoder},
	} {
		if name.value == "" {
			at(
				name.key,
				fmt.Sprintf("%s is empty", name.key),
				"give the name of a plugin; `srpo plugin list` prints those installed",
			)
		}
	}
	if !plainName(c.Run.Name) {
		at("run.name", fmt.Sprintf("%q cannot be the name of a folder", c.Run.Name),
			"use letters, digits, '.', '_' and '-'; set run.out for a path")
	}
}

func plainName(s string) bool {
	for _, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-') {
			return false
		}
	}
	return s != "." && s != ".." && len(s) <= 200
}
