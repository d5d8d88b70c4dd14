package plugins_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
)

type reachSettings struct {
	Near  float64  `setting:"near"  min:"0" max:"0.5" doc:"distance that counts as reached [m]"`
	Steps int      `setting:"steps" min:"1"           doc:"steps of an episode"`
	Mode  string   `setting:"mode"                    doc:"size of the target"                  choices:"easy,hard"`
	Fast  bool     `setting:"fast"                    doc:"skip the waiting steps"`
	Names []string `setting:"names"                   doc:"names of the targets"`
	cache int      // not a setting
}

func TestDeclareAndDecodeSettings(t *testing.T) {
	defaults := reachSettings{Near: 0.1, Steps: 40, Mode: "easy", Names: []string{"a"}}
	declared := plugins.DeclareSettings(defaults)
	require.Equal(t, []plugins.Setting{
		{
			Name:    "near",
			Default: 0.1,
			Min:     plugins.Bound(0),
			Max:     plugins.Bound(0.5),
			Doc:     "distance that counts as reached [m]",
		},
		{Name: "steps", Default: int64(40), Min: plugins.Bound(1), Doc: "steps of an episode"},
		{Name: "mode", Default: "easy", Choices: []string{"easy", "hard"}, Doc: "size of the target"},
		{Name: "fast", Default: false, Doc: "skip the waiting steps"},
		{Name: "names", Default: []string{"a"}, Doc: "names of the targets"},
	}, declared)

	s, err := plugins.Resolve(declared, map[string]any{"near": 0.2, "names": []any{"b", "c"}})
	require.NoError(t, err)
	got := reachSettings{cache: 7}
	require.NoError(t, s.Decode(&got))
	require.Equal(t, reachSettings{Near: 0.2, Steps: 40, Mode: "easy", Names: []string{"b", "c"}, cache: 7}, got)
}

// Each mistake in the source of a plugin stops it at its start and says what to do.
func TestDecodeRefuses(t *testing.T) {
	s := plugins.Settings{"near": 0.1}
	for want, into := range map[string]any{
		`field Neer names the setting "neer", which is not declared`: &struct {
			Neer float64 `setting:"neer"`
		}{},
		`has the setting "near"`: &struct{ Near float64 }{},
		`cannot hold the setting "near" of type float64`: &struct {
			Near int `setting:"near"`
		}{},
		"cannot be decoded into plugins_test.reachSettings": reachSettings{},
	} {
		err := s.Decode(into)
		require.ErrorContains(t, err, want)
		require.Equal(t, plugins.Internal, plugins.KindOf(err))
	}
}
