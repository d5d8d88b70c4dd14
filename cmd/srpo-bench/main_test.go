package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
)

// TestMain serves an idle plugin if the test binary was started as one.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "serve" {
		serve(plugins.Kind(os.Args[2]))
		return
	}
	os.Exit(m.Run())
}

func TestRun(t *testing.T) {
	page := filepath.Join(t.TempDir(), "bench.md")
	var b bytes.Buffer
	o := options{quick: true, noPython: true, lanes: "1,2", repeats: 1, out: page}
	require.NoError(t, run(t.Context(), &b, o, []string{"host", "clip"}))
	require.Contains(t, b.String(), "## Host overhead per env step")
	require.Contains(t, b.String(), "| Go | shared memory |")
	written, err := os.ReadFile(page)
	require.NoError(t, err)
	require.Equal(t, b.String(), string(written))
}

func TestInvalidArguments(t *testing.T) {
	var b bytes.Buffer
	o := options{noPython: true}
	require.ErrorContains(t, run(t.Context(), &b, o, []string{"nothing"}), `no benchmark "nothing"`)
	require.ErrorContains(t, run(t.Context(), &b, o, []string{"libero"}), "libero needs Python")
	o.lanes = "1,x"
	require.ErrorContains(t, run(t.Context(), &b, o, nil), "not a list of positive numbers")
	require.Empty(t, b.String())
}
