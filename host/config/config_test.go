package config

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/internal/tomltext"
	"github.com/srpo-dev/srpo/plugins"
)

var update = flag.Bool("update", false, "rewrite srpo.toml at the repository's root")

var declared = []plugins.Setting{
	{Name: "lr", Default: 1e-3, Doc: "Learning rate.", Min: plugins.Bound(0), Max: plugins.Bound(1)},
	{Name: "hidden", Default: int64(64), Doc: "Width."},
	{Name: "head", Default: "tokens", Doc: "Action head.", Choices: []string{"tokens", "gaussian"}},
	{Name: "freeze", Default: false, Doc: "Freeze the trunk."},
	{Name: "layers", Default: []string{"a"}, Doc: "Layers."},
	{Name: "note", Default: "", Doc: "Free text."},
}

func write(t *testing.T, c *Config) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, c.Write(&b))
	return b.String()
}

// srpo.toml at the root is what the defaults are.
func TestRootFileEqualsDefaults(t *testing.T) {
	path := filepath.Join("..", "..", "srpo.toml")
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(write(t, Default())), 0o644))
	}
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, write(t, Default()), string(text), "run: go test ./host/config -update")
	c, err := Load(Input{File: path})
	require.NoError(t, err)
	d := Default()
	require.Equal(t, d.Run, c.Run)
	require.Equal(t, d.Rollout, c.Rollout)
	require.Equal(t, d.Reward, c.Reward)
	require.Equal(t, d.Update, c.Update)
	require.Equal(t, d.Imitate, c.Imitate)
	require.Equal(t, d.Report, c.Report)
	require.Equal(t, d.Host, c.Host)
	// Every field of the structs is a setting, and every default obeys its own bounds.
	fields := 0
	for _, s := range []any{d.Run, d.Rollout, d.Reward, d.Update, d.Imitate, d.Offline, d.Data, d.Report, d.Host} {
		fields += reflect.TypeOf(s).NumField()
	}
	require.Len(t, d.Values(), fields)
	for _, s := range d.sections {
		for _, f := range s.fields {
			require.NotEmpty(t, f.Doc, f.Name)
			v, err := f.check(assignment{name: f.Name, value: f.Default})
			require.NoError(t, err)
			require.Equal(t, f.Default, v)
		}
	}
}

func TestChosen(t *testing.T) {
	d := Default()
	file := filepath.Join(t.TempDir(), "srpo.toml")
	require.NoError(
		t,
		os.WriteFile(file, fmt.Appendf(nil, "[run]\niterations = %d\neval_every = 3\n", d.Run.Iterations), 0o644),
	)
	c, err := Load(
		Input{
			File:  file,
			Set:   []string{fmt.Sprint("run.keep=", d.Run.Keep)},
			Flags: []Flag{{Name: "--seed", Key: "run.seed", Value: fmt.Sprint(d.Run.Seed)}},
		},
	)
	require.NoError(t, err)
	require.False(t, c.Chosen("run.iterations"), "the file spells out the default")
	require.True(t, c.Chosen("run.eval_every"))
	require.True(t, c.Chosen("run.keep"))
	require.True(t, c.Chosen("run.seed"))
	require.False(t, c.Chosen("run.env"))
}

func TestLayers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "srpo.toml")
	require.NoError(
		t,
		os.WriteFile(
			file,
			[]byte(
				"[run]\nenv = \"a\"\nseed = 1\ntask = [\"x\"]\niterations = 7\n[policy.tiny]\nlr = 1\nhidden = 8\n",
			),
			0o644,
		),
	)
	c, err := Load(Input{
		File: file,
		Set: []string{
			"run.env=b",
			"run.seed=2",
			"run.task=y",
			"policy.tiny.lr=1e-2",
			"policy.tiny.head=gaussian",
			"policy.tiny.layers=[\"p\", \"q\"]",
		},
		Flags: []Flag{
			{Name: "--env", Key: "run.env", Value: "c"},
			{Name: "--task", Key: "run.task", Value: "libero_object/*bbq*"},
			{Name: "--task", Key: "run.task", Value: "second"},
		},
	})
	require.NoError(t, err)
	require.Equal(t, "c", c.Run.Env)
	require.Equal(t, uint64(2), c.Run.Seed)
	require.Equal(t, 7, c.Run.Iterations)
	require.Equal(t, []string{"libero_object/*bbq*", "second"}, c.Run.Task)
	require.Equal(t, "tiny", c.Run.Policy)

	require.Equal(t, "--env", c.Origin("run.env").String())
	require.Equal(t, "--set", c.Origin("run.seed").String())
	require.Equal(t, file+":5:1", c.Origin("run.iterations").String())
	require.Equal(t, "default", c.Origin("run.policy").String())
	require.Zero(t, c.Origin("run.nothing"))

	s, err := c.ResolvePlugin(plugins.Policy, "tiny", declared)
	require.NoError(t, err)
	require.Equal(
		t,
		plugins.Settings{
			"lr":     1e-2,
			"hidden": int64(8),
			"head":   "gaussian",
			"freeze": false,
			"layers": []string{"p", "q"},
			"note":   "",
		},
		s,
	)
	require.Equal(t, "--set", c.Origin("policy.tiny.lr").String())
	require.Equal(t, file+":8:1", c.Origin("policy.tiny.hidden").String())
	require.Equal(t, "default", c.Origin("policy.tiny.freeze").String())
	require.NoError(t, c.Unused())
}

// The paper's ablation of alpha has both ends.
func TestAlphaOfTheAblation(t *testing.T) {
	for _, alpha := range []float64{0, 0.3, 0.5, 0.8, 1} {
		c, err := Load(Input{Set: []string{fmt.Sprintf("reward.alpha=%g", alpha)}})
		require.NoError(t, err)
		require.Equal(t, alpha, c.Reward.Alpha)
	}
	for _, alpha := range []string{"-0.1", "1.1"} {
		_, err := Load(Input{Set: []string{"reward.alpha=" + alpha}})
		require.Contains(t, plugins.AsError(err).Hint, "0 to 1")
	}
}

func TestErrorsPointAtTheLine(t *testing.T) {
	for name, tc := range map[string]struct {
		text, place, message, hint, detail string
	}{
		"unknown setting": {"[rollout]\ngroups = 4\n  grup_size = 4 # x\n", "f.toml:3:3",
			`there is no setting "grup_size" in [rollout]`, `did you mean "group_size"?`,
			"3 |   grup_size = 4 # x\n  |   ^^^^^^^^^"},
		"dotted": {
			"rollout.group_sise = 4", "f.toml:1:9", `there is no setting "group_sise" in [rollout]`,
			`did you mean "group_size"?`, "1 | rollout.group_sise = 4\n  |         ^^^^^^^^^^",
		},
		"inline table": {
			"rollout = { groups = 3, 'seeds' = 4 }", "f.toml:1:25", `there is no setting "seeds" in [rollout]`,
			"known: groups", "^^^^^^^",
		},
		"other section": {
			"[run]\nalpha = 0.5", "f.toml:2:1", `there is no setting "alpha" in [run]`, `did you mean "reward.alpha"?`,
			"^^^^^",
		},
		"unknown section": {"\n[rewrad]\nalpha = 0.5", "f.toml:2:2", "there is no section [rewrad]",
			`did you mean "reward"?`,
			"2 | [rewrad]\n  |  ^^^^^^"},
		"no section": {"seed = 3", "f.toml:1:1", `"seed" is not in a section`, `Write it below [run]`, "^^^^"},
		"wrong type": {
			"[run]\nseed = \"3\"", "f.toml:2:8", `setting "seed" wants a whole number, got 3 (a string)`,
			"the default is 0", "2 | seed = \"3\"\n  |        ^^^",
		},
		"float for int": {"[run]\nseed = 3.0", "f.toml:2:8", "wants a whole number", "", "^^^"},
		"list of ints":  {"[run]\ntask = [1, 2]", "f.toml:2:8", "wants a list of strings", "", "^^^^^^"},
		"nan":           {"[reward]\nalpha = nan", "f.toml:2:9", "wants a number", "", "^^^"},
		"bounds": {
			"[rollout]\ngroup_size = 1", "f.toml:2:14", `setting "group_size" cannot be 1`, "allowed: 2", "^",
		},
		"open bound": {
			"[update]\nclip_low = 1.0", "f.toml:2:12", `setting "clip_low" cannot be 1`, "allowed: above 0, below 1",
			"^^^",
		},
		"choices": {
			"[reward]\nkind = \"zscor\"", "f.toml:2:8", `setting "kind" cannot be "zscor"`,
			`did you mean "zscore"? One of zscore, minmax, anchored, binary, progress`, "^^^^^^^",
		},
		"section value": {"run = 3", "f.toml:1:1", `"run" is a section, not a value`, "[run]", "^^^"},
		"plugin value":  {"env = \"libero\"", "f.toml:1:1", `"env" is not a setting by itself`, "[run]", "^^^"},
		"plugin nesting": {
			"[env]\nlibero = 3", "f.toml:2:1", "contains one section per plugin", "[env.NAME]", "^^^^^^",
		},
		"plugin table": {
			"[env.libero]\na.b = 3", "f.toml:2:1", "must be true or false", "srpo plugin list libero", "^",
		},
		"crossed": {
			"[rollout]\nkeep_low = 0.95", "f.toml:2:1", "keep_low 0.95 is above keep_high 0.9", "", "^^^^^^^^",
		},
		"name":      {"[run]\nname = \"a/b\"", "f.toml:2:1", "cannot be the name of a folder", "run.out", "^^^^"},
		"syntax":    {"[run]\nenv = libero", "f.toml:2:7", "", "not TOML", "2 | env = libero\n  |       ^"},
		"duplicate": {"[run]\nseed = 1\nseed = 2", "f.toml:3:", "seed", "", "^"},
		"tabs and runes": {
			"[run]\n\t\"sééd\"\t= 1", "f.toml:2:2", `"sééd"`, `"seed"`, "2 | \t\"sééd\"\t= 1\n  | \t^^^^^^",
		},
		"crlf and BOM": {
			"\xef\xbb\xbf[run]\r\nseeed = 1\r\n", "f.toml:2:1", "seeed", `"seed"`, "2 | seeed = 1\n  | ^^^^^",
		},
		"after strings": {"[run]\nname = '''\n[x]\ny = 1'''\nzeed = 1", "f.toml:5:1", `"zeed"`, `"seed"`, "^^^^"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("f.toml", []byte(tc.text))
			require.Error(t, err)
			e := plugins.AsError(err)
			require.Equal(t, plugins.Invalid, e.Kind)
			require.True(t, strings.HasPrefix(e.Place, tc.place), e.Place)
			require.Contains(t, e.Message, tc.message)
			require.Contains(t, e.Hint, tc.hint)
			require.NotEmpty(t, e.Hint)
			require.Contains(t, e.Detail, tc.detail)
		})
	}
}

func TestEveryProblemIsReported(t *testing.T) {
	_, err := Parse("f.toml", []byte("[update]\nepoks = 1\n[run]\nseed = -1\n[zzz]\n"))
	e := plugins.AsError(err)
	require.Equal(t, "f.toml:2:1", e.Place, "the first line first")
	require.Contains(t, e.Detail, "f.toml:4:8: setting \"seed\" cannot be -1")
	require.Contains(t, e.Detail, "f.toml:5:2: there is no section [zzz]")
}

func TestErrorsOfSetAndFlags(t *testing.T) {
	for name, tc := range map[string]struct {
		in                           Input
		place, message, hint, detail string
	}{
		"unknown": {
			Input{
				Set: []string{"rollout.grup_size=4"},
			}, "--set", `"grup_size" in [rollout]`, `"group_size"`,
			"--set rollout.grup_size=4\n              ^^^^^^^^^",
		},
		"section": {
			Input{Set: []string{"rolout.group_size=4"}}, "--set", `no section "rolout"`, `"rollout"`, "      ^^^^^^",
		},
		"bare": {Input{Set: []string{"alpha=0.5"}}, "--set", `no section "alpha"`, `"reward.alpha"`, "^^^^^"},
		"no value": {
			Input{Set: []string{"rollout.group_size"}}, "--set", "is not name=value", "policy.tiny.lr", "",
		},
		"type": {
			Input{
				Set: []string{"rollout.group_size=big"},
			}, "--set", "wants a whole number", "the default is 8",
			"--set rollout.group_size=big\n                         ^^^",
		},
		"injection": {Input{Set: []string{"rollout.group_size=3\nx=4"}}, "--set", "wants a whole number", "", ""},
		"bound":     {Input{Set: []string{"rollout.group_size=1"}}, "--set", "cannot be 1", "allowed", ""},
		"plugin path": {
			Input{Set: []string{"policy.lr=1"}}, "--set", `"policy.lr" is not a setting`, "policy.PLUGIN.NAME", "",
		},
		"too deep": {Input{Set: []string{"run.a.b=1"}}, "--set", `"run.a.b" is not a setting`, "run.NAME", ""},
		"empty":    {Input{Set: []string{""}}, "--set", "is not name=value", "", ""},
		"flag choice": {
			Input{
				Flags: []Flag{{"--reward", "reward.kind", "zscor"}},
			}, "--reward", `cannot be "zscor"`, "binary", "--reward zscor\n         ^^^^^",
		},
		"missing":       {Input{File: "nowhere/f.toml"}, "nowhere/f.toml", "no such file", "", ""},
		"folder":        {Input{File: "."}, ".", "it is a folder", "TOML", ""},
		"invalid utf-8": {Input{Set: []string{"run.env=\xff"}}, "--set", "not UTF-8", "", ""},
		"crossed by set": {
			Input{Set: []string{"rollout.keep_high=0.01"}}, "--set", "is above keep_high", "", "^^^^^^^^^",
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(tc.in)
			require.Error(t, err)
			e := plugins.AsError(err)
			require.Equal(t, tc.place, e.Place)
			require.Contains(t, e.Message, tc.message)
			require.Contains(t, e.Hint, tc.hint)
			require.Contains(t, e.Detail, tc.detail)
		})
	}
	_, err := Load(Input{File: "nowhere/f.toml", Optional: true})
	require.NoError(t, err)
}

func TestPluginErrors(t *testing.T) {
	for name, tc := range map[string]struct{ text, place, message, hint, detail string }{
		"unknown": {
			"[policy.tiny]\nlearning = 1\nhiden = 3", "f.toml:2:1", `there is no setting "learning" in [policy.tiny]`,
			"known: lr, hidden", "f.toml:3:1",
		},
		"nearest": {"[policy.tiny]\nhiden = 3", "f.toml:2:1", "", `did you mean "hidden"?`, "2 | hiden = 3\n  | ^^^^^"},
		"type":    {"[policy.tiny]\nhidden = 3.5", "f.toml:2:10", "wants a whole number", "", "^^^"},
		"bounds":  {"[policy.tiny]\nlr = 2", "f.toml:2:6", "cannot be 2", "0 to 1", "^"},
		"choices": {"policy.tiny.head = 'x'", "f.toml:1:20", `cannot be "x"`, "one of tokens, gaussian", "^^^"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Parse("f.toml", []byte(tc.text))
			require.NoError(t, err)
			_, err = c.ResolvePlugin(plugins.Policy, "tiny", declared)
			e := plugins.AsError(err)
			require.NotNil(t, e)
			require.Equal(t, tc.place, e.Place)
			require.Contains(t, e.Message, tc.message)
			require.Contains(t, e.Hint, tc.hint)
			require.Contains(t, e.Detail, tc.detail)
		})
	}
	c, err := Load(Input{Set: []string{"policy.tiny.lr=x"}})
	require.NoError(t, err)
	_, err = c.ResolvePlugin(plugins.Policy, "tiny", declared)
	require.ErrorContains(t, err, "wants a number")
	require.Equal(t, "--set", plugins.AsError(err).Place)
}

func TestSetForPluginNotInUseIsRefused(t *testing.T) {
	c, err := Load(Input{Set: []string{"policy.tinny.lr=1"}})
	require.NoError(t, err)
	_, err = c.ResolvePlugin(plugins.Policy, "tiny", declared)
	require.NoError(t, err)
	err = c.Unused()
	require.ErrorContains(t, err, `this run uses no policy "tinny"`)
	require.Equal(t, `did you mean "tiny"?`, plugins.AsError(err).Hint)
	require.Contains(t, plugins.AsError(err).Detail, "--set policy.tinny.lr=1\n             ^^^^^")
	require.ErrorContains(
		t,
		c.Unstarted(map[plugins.Kind]string{plugins.Policy: "tiny"}),
		`this run uses no policy "tinny"`,
	)
	require.NoError(t, c.Unstarted(map[plugins.Kind]string{plugins.Policy: "tinny"}))
	require.NoError(
		t,
		c.Unstarted(map[plugins.Kind]string{plugins.Policy: "./folder"}),
		"what a folder's plugin is called is not known yet",
	)
	c, err = Parse("f.toml", []byte("[policy.openvla]\nlr = 1"))
	require.NoError(t, err)
	require.NoError(t, c.Unused(), "a file may hold sections of plugins that are not in use")
}

// Whatever is set, Write's text loads back to the same values, and writes the same text but for the origins.
func TestWriteLoadsBack(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	texts := []string{"", "a", "ü*?/\\\"'", "tab\tnew\nline\r\x01\x7f", "#[x]", "日本", "  ", "1e3", "true"}
	for range 300 {
		c := Default()
		for _, s := range c.sections {
			for _, f := range s.fields {
				if r.IntN(2) == 0 {
					continue
				}
				var v any
				switch f.Default.(type) {
				case bool:
					v = r.IntN(2) == 0
				case int64:
					v = int64(max(0, *f.Min)) + r.Int64N(1000)
				case float64:
					v = 0.001 + 0.998*r.Float64()
					if f.Max == nil && r.IntN(2) == 0 {
						v = float64(r.IntN(3)+1) * []float64{1e-300, 1, 1e30}[r.IntN(3)]
					}
				case string:
					switch {
					case len(f.Choices) > 0:
						v = f.Choices[r.IntN(len(f.Choices))]
					case f.Name == "name":
						v = "a-b_1.x"
					default:
						v = "x" + texts[r.IntN(len(texts))]
					}
				case []string:
					list := []string{"first"}
					for range r.IntN(3) {
						list = append(list, "y"+texts[r.IntN(len(texts))])
					}
					v = list
				}
				f.store(v)
				c.origins[s.Name+"."+f.Name] = Origin{Layer: "flag", Place: "--some\nthing"}
			}
		}
		c.Rollout.KeepLow, c.Rollout.KeepHigh = 0.1, 0.9
		c.Imitate.Demos = max(1, c.Imitate.Demos) // what references = "demos" asks for
		note := texts[r.IntN(len(texts))]
		c.give(plugins.Policy, "tiny", assignment{name: "note", value: note})
		c.give(plugins.Policy, "tiny", assignment{name: "lr", value: r.Float64()})
		c.give(plugins.Env, "na me", assignment{name: "k.ey", value: []any{note}})
		c.give(plugins.Env, "na me", assignment{name: "n", value: r.Float64() * 1e20})
		want, err := c.ResolvePlugin(plugins.Policy, "tiny", declared)
		require.NoError(t, err)

		text := write(t, c)
		back, err := Parse("f.toml", []byte(text))
		require.NoError(t, err, "%+v\n%s", plugins.AsError(err), text)
		got, err := back.ResolvePlugin(plugins.Policy, "tiny", declared)
		require.NoError(t, err)
		require.Equal(t, want, got)
		a, b := c.Values(), back.Values()
		require.Len(t, b, len(a))
		for i := range a {
			require.Equal(t, a[i].Key, b[i].Key)
			require.Equal(t, a[i].Value, b[i].Value, a[i].Key)
		}
		require.Equal(t, c.Run, back.Run)
		require.Equal(t, withoutOrigins(text), withoutOrigins(write(t, back)), "the plugin that was not resolved too")
	}
}

func withoutOrigins(text string) string {
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if at := strings.LastIndex(l, "  # from "); at >= 0 {
			lines[i] = l[:at]
		}
	}
	return strings.Join(lines, "\n")
}

func TestHostileText(t *testing.T) {
	for name, text := range map[string]string{
		"nested":        strings.Repeat("a=[", 40000),
		"dots":          strings.Repeat("a.", 60000) + "a = 1",
		"dotted header": "[" + strings.Repeat("a.", 60000) + "a]",
		"tables":        strings.Repeat("[[a]]\n", 20000),
		"zero":          "[run]\x00",
		"binary":        "\x80\x02}q\x01(X\x05",
		"huge":          strings.Repeat("# x\n", 40000),
		"long line":     "[run]\nenv = \"" + strings.Repeat("x", 100000),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("f.toml", []byte(text))
			e := plugins.AsError(err)
			require.NotNil(t, e)
			require.Equal(t, plugins.Invalid, e.Kind)
			require.NotEmpty(t, e.Hint)
			require.Less(t, len(e.Error()), 1000)
			require.Less(t, len(e.Detail), 10000)
		})
	}
	// Brackets in comments and texts nest nothing.
	_, err := Parse(
		"f.toml",
		[]byte(strings.Repeat("# (0, 1[\n", 200)+"[run]\nenv = \""+strings.Repeat("[", 100)+"\"\n"),
	)
	require.NoError(t, err)
}

// On any bytes Parse gives a configuration that writes and loads back, or an error with a place; and the scanner
// finds every key of what the decoder accepts, on the line where it stands.
func FuzzParse(f *testing.F) {
	f.Add("[run]\nseed = 3\ntask = [\"a\", 'b']\n[policy.\"ti ny\"]\nlr.x = { a = [1, {b = 2}], 'c d' = '''x''' }\n")
	f.Add("a = \"\"\"x\\\"\"\"\"\"\n[[b.c]]\nd = 1979-05-27 07:32:00 # z\n[[b.c]]\n\"\\u00e9\" = -inf\n")
	f.Add("[rollout]\ngroup_size = 1\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse("f", []byte(text))
		if err != nil {
			e := plugins.AsError(err)
			if e.Place == "" || e.Hint == "" {
				t.Fatalf("no place or hint: %+v", e)
			}
		} else {
			var b bytes.Buffer
			if err := c.Write(&b); err != nil {
				t.Fatal(err)
			}
			if _, err := Parse("f", b.Bytes()); err != nil {
				t.Fatalf("%v\n%s", err, b.String())
			}
		}
		if len(text) > 4096 || tomltext.TooDeep([]byte(text)) || strings.ContainsRune(text, 0) {
			return
		}
		var root map[string]any
		md, err := toml.Decode(text, &root)
		if err != nil {
			return
		}
		src := newSource("f", []byte(text))
		for _, k := range md.Keys() {
			at, ok := src.parents[strings.Join(k, "\x00")]
			if !ok {
				t.Fatalf("no position for %q in %q", k, text)
			}
			if got := unquoteIfQuoted(text[at.start:at.end]); got != k[len(k)-1] {
				t.Fatalf("%q is at %q", k, got)
			}
		}
	})
}

func unquoteIfQuoted(s string) string {
	if strings.HasPrefix(s, `"`) || strings.HasPrefix(s, "'") {
		return unquote([]byte(s))
	}
	return s
}

func ExampleConfig_ResolvePlugin() {
	c, _ := Parse("srpo.toml", []byte("[policy.tiny]\nlernrate = 0.1\n"))
	_, err := c.ResolvePlugin(
		plugins.Policy,
		"tiny",
		[]plugins.Setting{{Name: "learn_rate", Default: 1e-3, Doc: "Adam's step size."}},
	)
	e := plugins.AsError(err)
	fmt.Printf("%v\n%s\n%s\n", e, e.Detail, e.Hint)
	// Output:
	// srpo.toml:2:1: there is no setting "lernrate" in [policy.tiny]
	// 2 | lernrate = 0.1
	//   | ^^^^^^^^
	// did you mean "learn_rate"?
}
