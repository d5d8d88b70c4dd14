package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/audit"
	"github.com/srpo-dev/srpo/host/media"
	"github.com/srpo-dev/srpo/host/scoring"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
)

// film draws a block that moves a share of the way from one corner to a goal, uint8 [frames, 24, 32, 3].
func film(seed uint64, goal [2]int, share float64, frames int) plugins.Tensor {
	const h, w = 24, 32
	rng := rand.New(rand.NewPCG(seed, 0))
	start := [2]float64{4 + rng.Float64()*2, 4 + rng.Float64()*2}
	data := make([]byte, 0, frames*h*w*3)
	for t := range frames {
		part := share * float64(t) / float64(frames-1)
		cy, cx := start[0]+part*(float64(goal[0])-start[0]), start[1]+part*(float64(goal[1])-start[1])
		for y := range h {
			for x := range w {
				c := []byte{50, 70, 90}
				if dy, dx := float64(y)-cy, float64(x)-cx; dy*dy < 9 && dx*dx < 9 {
					c = []byte{220, 90, 40}
				}
				data = append(data, c...)
			}
		}
	}
	return plugins.Bytes(data, frames, h, w, 3)
}

// writeVideos writes videos of two tasks and labels.csv. Each task has 5 successes, and 4 failures that end after 0,
// 20, 40 and 60 percent of the way. The lengths are not correlated with success.
func writeVideos(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	labels := "file,task,success,progress\n"
	for k, task := range []string{"left", "right"} {
		goal := [][2]int{{18, 6}, {12, 26}}[k]
		for i := range 9 {
			success, share := i < 5, 1.0
			if !success {
				share = 0.2 * float64(i-5)
			}
			name := fmt.Sprintf("%s-%d.npz", task, i)
			var b bytes.Buffer
			if err := media.EncodeNPZ(&b, "frames", film(uint64(10*k+i), goal, share, 12+(3*i)%4)); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, name), b.Bytes(), 0o644); err != nil {
				return err
			}
			labels += fmt.Sprintf("%s,%s,%t,%.1f\n", name, task, success, share)
		}
	}
	return os.WriteFile(filepath.Join(dir, "labels.csv"), []byte(labels), 0o644)
}

// badEncoder fails in a way that depends on a clip's length: with 13 frames it dies, with 14 it returns an error,
// with 15 it returns an empty embedding. With 16 frames, the length of the anchored reward's anchor, it returns NaN
// in mode blind, and dies once in mode fragile.
type badEncoder struct{ mode string }

func (badEncoder) Info(context.Context) (plugins.Info, error) {
	return plugins.Info{Name: "bad", Kind: plugins.Encoder, Version: "0.1.0", Doc: "violates the contract"}, nil
}

func (badEncoder) Configure(context.Context, plugins.Config) error { return nil }

func (badEncoder) Describe(context.Context) (encoder.Spec, error) {
	return encoder.Spec{Dimension: 2}, nil
}

func (b badEncoder) Encode(_ context.Context, clips []plugins.Tensor) ([][]float32, error) {
	var out [][]float32
	for _, c := range clips {
		row := []float32{1, float32(c.Data[len(c.Data)/2])}
		switch c.Shape[0] {
		case 13:
			fmt.Fprintln(os.Stderr, "CUDA error: an illegal memory access")
			os.Exit(9)
		case 14:
			return nil, plugins.Errorf(plugins.Invalid, "clips of 14 frames are not supported")
		case 15:
			row = nil
		case 16:
			if b.mode == "blind" {
				row[0] = float32(math.NaN())
			}
			if mark := os.Getenv("MARK"); b.mode == "fragile" {
				if f, err := os.OpenFile(mark, os.O_CREATE|os.O_EXCL, 0o644); err == nil {
					_ = f.Close()
					os.Exit(9)
				}
			}
		}
		out = append(out, row)
	}
	return out, nil
}

func scoreJSON(t *testing.T, args ...string) scoring.Result {
	t.Helper()
	code, stdout, stderr := evalCLI(t, append([]string{"reward", "--json"}, args...)...)
	require.Zero(t, code, stderr)
	var r scoring.Result
	require.NoError(t, json.Unmarshal([]byte(stdout), &r), stdout)
	return r
}

func newVideos(t *testing.T) string {
	t.Helper()
	t.Chdir(t.TempDir())
	t.Setenv("SRPO_CACHE", filepath.Join(t.TempDir(), "cache"))
	require.NoError(t, writeVideos("videos"))
	return "videos"
}

func TestRewardOfVideos(t *testing.T) {
	dir := newVideos(t)
	r := scoreJSON(t, dir, "--metrics")
	require.Equal(t, "pixel", r.Encoder)
	require.Equal(t, "folder", r.Form)
	require.Len(t, r.Attempts, 18)
	require.Len(t, r.Tasks, 2)
	for task := range 2 {
		var last float64
		for i, a := range r.Attempts[9*task : 9*task+9] {
			require.Equal(t, fmt.Sprintf("%s-%d.npz", []string{"left", "right"}[task], i), a.ID)
			require.Equal(t, 12+(3*i)%4, a.Frames)
			switch {
			case i < 5:
				require.Equal(t, 1.0, a.Reward)
			default:
				require.Less(t, a.Reward, 0.8)
				require.Greater(t, a.Reward, last, "a failure that ends closer to the goal has a higher reward")
				last = a.Reward
			}
		}
	}
	m := r.Metrics.Mean
	require.Equal(t, 1.0, m["auroc"].Value)
	require.Greater(t, m["voc"].Value, 0.95)
	require.Equal(t, 1.0, m["progress_order"].Value)
	require.Equal(t, 1.0, m["stalled_auroc"].Value)
	require.InDelta(t, 0.5, m["reversed_auroc"].Value, 0.15, "pixel averages over time")
	equal := r.Metrics.EqualLength
	require.Equal(t, map[string]int{"left": 12, "right": 12}, equal.Frames)
	require.Equal(t, 0.5, equal.Mean["length_auroc"].Value)
	require.NotEqual(t, m["length_auroc"].Value, equal.Mean["length_auroc"].Value)
	require.Greater(t, r.Embedded, 18)
	require.Len(t, r.Metrics.Definitions, len(m)) // each has a definition
}

// TestRewardCache checks that a second call with another reward embeds nothing, that damaged entries are detected and
// computed again, and that other settings of the encoder use other entries.
func TestRewardCache(t *testing.T) {
	dir := newVideos(t)
	first := scoreJSON(t, dir, "--metrics")
	second := scoreJSON(t, dir, "--metrics", "--reward", "minmax", "--cluster", "mean")
	require.Zero(t, second.Embedded)
	require.Equal(t, first.Metrics.Mean["sc"], second.Metrics.Mean["sc"])
	require.NotEqual(t, first.Attempts[6].Reward, second.Attempts[6].Reward)

	var entries []string
	require.NoError(t, filepath.WalkDir(filepath.Join(
		os.Getenv("SRPO_CACHE"), "embeddings",
	), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			entries = append(entries, path)
		}
		return err
	}))
	require.Greater(t, len(entries), 36)
	for _, path := range entries {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		data[len(data)/2] ^= 4
		require.NoError(t, os.WriteFile(path, data, 0o644))
	}
	repaired := scoreJSON(t, dir, "--metrics")
	require.Equal(t, first.Embedded, repaired.Embedded)
	require.Equal(t, first.Attempts, repaired.Attempts)
	require.Equal(
		t, []string{
			fmt.Sprintf("%d cached embeddings were damaged and are computed again", len(entries)),
		}, repaired.Warnings,
	)
	again := scoreJSON(t, dir)
	require.Zero(t, again.Embedded)

	require.NotZero(t, scoreJSON(t, dir, "--set", "encoder.pixel.size=8").Embedded)
	require.NotZero(t, scoreJSON(t, dir, "--no-cache").Embedded)
}

// TestRewardComparesSettings compares one plugin with several settings: each has a label, curves and embeddings.
func TestRewardComparesSettings(t *testing.T) {
	dir := newVideos(t)
	r := scoreJSON(t, dir, "--compare", "pixel,coarse=pixel:size=4,pixel:size=6,pixel", "--out", "page")
	var names []string
	for _, e := range r.Encoders {
		names = append(names, fmt.Sprint(e.Encoder, " ", e.EncoderPlugin, " ", e.Dimension))
	}
	require.Len(t, names, 3, "duplicates are removed")
	pixel := scoreJSON(t, dir)
	coarse := scoreJSON(t, dir, "--set", "encoder.pixel.size=4")
	require.Equal(
		t, []string{fmt.Sprint("pixel  ", pixel.Dimension), fmt.Sprint("coarse pixel ", coarse.Dimension)}, names[:2],
	)
	require.Equal(t, "pixel:size=6", r.Encoders[2].Encoder)
	require.Equal(t, pixel.Attempts, r.Encoders[0].Attempts)
	require.Equal(t, coarse.Attempts, r.Encoders[1].Attempts)
	require.NotEqual(t, pixel.Attempts, coarse.Attempts)
	require.Zero(t, coarse.Embedded, "the cache does not depend on the label")
	require.Equal(t, "coarse", r.FalseSuccesses[1].Encoder)
	for _, name := range []string{"curves-coarse.svg", "curves-pixel-size-6.svg"} {
		require.FileExists(t, filepath.Join("page", name))
	}
	page, err := os.ReadFile("page/index.html")
	require.NoError(t, err)
	require.Contains(t, string(page), "Failures that coarse scores like successes")

	for list, want := range map[string]string{
		"a=pixel:size=4,a=pixel:size=6":       `two encoders are called "a"`,
		"pixel,pixel=generic":                 `two encoders are called "pixel"`,
		"coarse=pixel:size":                   `"size" is not a setting`,
		"coarse=pixel:sise=4":                 "did you mean",
		"=pixel":                              "the label is empty",
		"a=":                                  "the encoder is missing",
		"a=pixl:size=4":                       `no encoder is called "pixl"`,
		"pixel,coarse=pixel:size=4:size=many": "size",
	} {
		code, _, stderr := evalCLI(t, "reward", dir, "--compare", list)
		require.Contains(t, []int{2, 3}, code, "%s: %s", list, stderr)
		require.Contains(t, stderr, want, list)
		require.Contains(t, stderr, "try: ", list)
	}
	code, _, stderr := evalCLI(
		t, "reward", dir, "--compare", "pixel,coarse=pixel:size=4", "--set", "encoder.vjepa2.model=x.onnx",
	)
	require.Equal(t, 2, code)
	require.Contains(t, stderr, `uses no encoder "vjepa2"`)
}

// TestRewardOfBadVideos checks that a bad video is dropped with its reason, and that the others are scored.
func TestRewardOfBadVideos(t *testing.T) {
	dir := newVideos(t)
	addBadVideos(t, dir)
	r := scoreJSON(t, dir, "--out", "page")
	byID := map[string]audit.Score{}
	for _, a := range r.Attempts {
		byID[a.ID] = a
	}

	t.Run("failures are dropped with their reason", func(t *testing.T) {
		for id, want := range map[string]string{
			"black.npz": "every frame is black", "none.npz": "the video is empty", "empty.gif": "the file is empty",
			"broken.gif": "it does not decode", "gone.mp4": "the video does not exist: gone.mp4",
		} {
			require.True(t, byID[id].Dropped, id)
			require.Contains(t, byID[id].Reason, want, id)
			require.Nil(t, byID[id].Distance, id)
		}
		require.Equal(t, 0.0, byID["failed.npz"].Reward)
	})
	t.Run("a single frame is scored", func(t *testing.T) {
		still := byID["still.npz"]
		require.False(t, still.Dropped)
		require.Equal(t, "a single frame: there is no progress to see", still.Note)
		require.Equal(t, map[string]int{"left": 12, "right": 12, "lonely": 10, "hopeless": 10},
			r.Metrics.EqualLength.Frames, "a single frame does not shorten the other videos")
	})
	t.Run("a success with a broken video keeps its reward", func(t *testing.T) {
		bad := byID["bad.npz"]
		require.True(t, bad.Dropped, "a video that cannot be read shows no success")
		require.Zero(t, bad.Reward)
		require.Contains(t, bad.Reason, "not an .npz file")
	})
	t.Run("tasks have notes", func(t *testing.T) {
		for _, x := range r.Tasks {
			switch x.Name {
			case "hopeless":
				require.Contains(t, x.Notes[0], "no reference")
			case "lonely":
				require.Contains(t, strings.Join(x.Notes, "; "), "only one attempt")
			case "right":
				require.Empty(t, x.Notes)
			}
		}
	})
	require.Greater(t, r.Attempts[8].Reward, r.Attempts[5].Reward, "the other videos are scored")
	checkRewardPage(t, "page")
}

// addBadVideos adds unusable videos, one of a single frame, and two tasks with one attempt each to a folder of videos.
func addBadVideos(t *testing.T, dir string) {
	t.Helper()
	put := func(name string, data []byte) {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
	}
	npz := func(name string, frames plugins.Tensor) {
		var b bytes.Buffer
		require.NoError(t, media.EncodeNPZ(&b, "frames", frames))
		put(name, b.Bytes())
	}
	one := film(99, [2]int{18, 6}, 0.5, 10)
	npz("black.npz", plugins.Bytes(make([]byte, 10*24*32*3), 10, 24, 32, 3))
	npz("still.npz", plugins.Bytes(one.Data[:24*32*3], 1, 24, 32, 3))
	npz("none.npz", plugins.Bytes(nil, 0, 24, 32, 3))
	npz("other.npz", one)
	npz("failed.npz", one)
	put("empty.gif", nil)
	put("broken.gif", []byte("GIF89a broken"))
	put("bad.npz", []byte("no zip"))
	put("pictures/readme.txt", []byte("x"))
	labels, err := os.ReadFile(filepath.Join(dir, "labels.csv"))
	require.NoError(t, err)
	for _, name := range []string{"black.npz", "still.npz", "none.npz", "empty.gif", "broken.gif", "gone.mp4"} {
		labels = append(labels, []byte(name+",left,false,\n")...)
	}
	labels = append(labels, []byte("other.npz,lonely,true,\nfailed.npz,hopeless,false,\nbad.npz,left,true,\n")...)
	put("labels.csv", labels)
}

// checkRewardPage checks that the folder of a page is complete, and that the page loads nothing.
func checkRewardPage(t *testing.T, dir string) {
	t.Helper()
	for _, name := range []string{"index.html", "results.json", "curves-pixel.svg", "curves.gif"} {
		require.NotEmpty(t, evalRead(t, filepath.Join(dir, name)))
	}
	page := evalRead(t, filepath.Join(dir, "index.html"))
	for _, want := range []string{
		"every frame is black", "AUROC", "data:image/gif;base64", "stalled: told apart", "a single frame",
	} {
		require.Contains(t, page, want)
	}
	require.NotContains(t, page, "http://")
	require.NotContains(t, page, "https://")
}

// TestRewardWithABadEncoder checks that attempts are dropped when the encoder dies, returns an error or returns an
// empty embedding for them. The command ends if the encoder cannot be used at all.
func TestRewardWithABadEncoder(t *testing.T) {
	newVideos(t)
	program, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll("bad", 0o755))
	require.NoError(t, os.Symlink(program, "badplugin"))
	wd, err := os.Getwd()
	require.NoError(t, err)
	require.NoError(
		t, os.WriteFile(
			"bad/plugin.toml",
			[]byte("name = \"bad\"\nkind = \"encoder\"\nversion = \"0.1.0\"\nprotocol = 1\n[command]\nexec = "+
				"[\"./run\"]\n"),
			0o644,
		),
	)
	require.NoError(t, os.WriteFile("bad/run", []byte("#!/bin/sh\nexec "+wd+"/badplugin encoder\n"), 0o755))
	// In each task the successes have 12, 15, 14, 13 and 12 frames, and the failures 15, 14, 13 and 12.
	require.NoError(
		t, os.WriteFile(
			"few.csv",
			[]byte("id,success,video\na,1,videos/left-0.npz\nb,1,videos/left-4.npz\nc,0,videos/left-8.npz\n"+
				"d,0,videos/left-7.npz\ne,0,videos/left-6.npz\nf,0,videos/left-5.npz\n"),
			0o644,
		),
	)
	r := scoreJSON(t, "few.csv", "--encoder", "./bad", "--no-cache")
	require.Len(t, r.Attempts, 6)
	for i, want := range []string{
		"", "", "", "exited with status 9 during Encode of 1 clips", "are not supported", "is missing|not a number",
	} {
		a := r.Attempts[i]
		if want == "" {
			require.Empty(t, a.Reason, a.ID)
			continue
		}
		require.True(t, a.Dropped)
		require.Regexp(t, want, a.Reason)
	}
	kept, err := os.ReadDir(filepath.Join(os.Getenv("SRPO_CACHE"), "logs"))
	require.NoError(t, err)
	require.Empty(t, kept, "logs are removed if no error names them")

	code, _, stderr := evalCLI(t, "reward", "few.csv", "--encoder", "./gone")
	require.Equal(t, exitCodes[plugins.NotFound], code, stderr)

	// The command ends after three deaths in a row. The log that the error names is kept.
	require.NoError(
		t, os.WriteFile(
			"deadly.csv",
			[]byte("id,success,video\na,1,videos/left-3.npz\nb,0,videos/left-7.npz\nc,0,videos/right-7.npz\n"), 0o644,
		),
	)
	code, _, stderr = evalCLI(t, "reward", "deadly.csv", "--encoder", "./bad", "--no-cache")
	require.Equal(t, exitCodes[plugins.Unavailable], code, stderr)
	found := regexp.MustCompile(`its output is in (\S+)`).FindStringSubmatch(stderr)
	require.NotNil(t, found, stderr)
	log, err := os.ReadFile(found[1])
	require.NoError(t, err)
	require.Contains(t, string(log), "CUDA error: an illegal memory access")
}

func TestRewardOfEvaluations(t *testing.T) {
	checkpoint := smallPolicy(t)
	code, _, stderr := evalCLI(
		t, "eval", "--checkpoint", checkpoint, "--episodes", "6", "--out", "e", "--sample", "--set",
		"run.keep_clips=all",
	)
	require.Zero(t, code, stderr)
	r := scoreJSON(t, "e")
	require.Equal(t, "evaluation", r.Form)
	require.Len(t, r.Attempts, 6)
	for _, a := range r.Attempts {
		require.NotNil(t, a.Success)
		require.NotNil(t, a.Progress)
		require.Positive(t, a.Frames)
	}
	code, _, stderr = evalCLI(t, "eval", "--checkpoint", checkpoint, "--episodes", "6", "--out", "bare", "--sample")
	require.Zero(t, code, stderr)
	code, _, stderr = evalCLI(t, "reward", "bare")
	require.Equal(t, exitCodes[plugins.NotFound], code)
	require.Contains(t, stderr, "run.keep_clips")
}

func TestRewardOfRuns(t *testing.T) {
	checkpoint := smallPolicy(t)
	run := func(out string, set ...string) {
		args := []string{"run", "--out", out, "--checkpoint", checkpoint, "--iterations", "1", "--task",
			"tabletop/one_block", "--set", "policy.tiny.hidden=16", "--set", "policy.tiny.vision=8",
			"--set", "policy.tiny.conv=4,8,8", "--set", "rollout.max_steps=24", "--set", "rollout.groups=1", "--set",
			"rollout.group_size=4", "--set", "rollout.extra_groups=0",
			"--set", "rollout.keep_low=0", "--set", "rollout.keep_high=1", "--set", "run.videos=2", "--set",
			"report.audit_every=1"}
		for _, s := range set {
			args = append(args, "--set", s)
		}
		code, _, stderr := evalCLI(t, args...)
		require.Zero(t, code, stderr)
	}
	run("all", "run.keep_clips=all", "run.keep_embeddings=true")
	r := scoreJSON(t, "all")
	require.Equal(t, "run", r.Form)
	require.Len(t, r.Attempts, 4)
	require.Equal(t, "1/tabletop/one_block/0/0", r.Attempts[0].ID)

	// The saved embeddings alone give the same distances.
	require.NoError(t, os.RemoveAll("all/clips"))
	bare := scoreJSON(t, "all")
	require.Equal(t, "pixel", bare.Encoder)
	require.Len(t, bare.Attempts, 4)
	for i := range bare.Attempts {
		require.Equal(t, r.Attempts[i].Reward, bare.Attempts[i].Reward)
		require.Equal(t, r.Attempts[i].Distance, bare.Attempts[i].Distance)
	}
	// Without clips and embeddings, the videos of the report are scored.
	require.NoError(t, os.RemoveAll("all/embeddings"))
	few := scoreJSON(t, "all")
	require.Len(t, few.Attempts, 2)
	require.Contains(t, few.Warnings[0], "has no clips")

	line, err := os.ReadFile("all/metrics.jsonl")
	require.NoError(t, err)
	var m map[string]any
	require.NoError(t, json.Unmarshal(line, &m))
	require.Equal(t, 0.0, m["audit_dropped_share"])
	require.Contains(t, m, "audit_clusters")

	// Saving clips and embeddings does not change the metrics.
	run("none")
	other, err := os.ReadFile("none/metrics.jsonl")
	require.NoError(t, err)
	var n map[string]any
	require.NoError(t, json.Unmarshal(other, &n))
	for k, v := range m {
		if !strings.Contains(k, "seconds") && k != "lane_utilisation" && k != "act_batch" {
			require.Equal(t, v, n[k], k)
		}
	}
	run("failures", "run.keep_clips=failures")
	for _, a := range scoreJSON(t, "failures").Attempts {
		require.False(t, *a.Success)
	}
}
