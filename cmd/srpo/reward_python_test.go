package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRewardFromPython runs the example of srpo_sdk.reward with this program as srpo.
func TestRewardFromPython(t *testing.T) {
	source, err := filepath.Abs("../..")
	require.NoError(t, err)
	python := ""
	for _, candidate := range []string{os.Getenv("SRPO_TEST_PYTHON"), "python3"} {
		if candidate != "" && exec.Command(
			candidate, "-c", "import numpy, grpc, google.protobuf, cryptography",
		).Run() == nil {
			python = candidate
			break
		}
	}
	if python == "" {
		t.Skip("no Python with grpcio, protobuf, numpy and cryptography; name one in SRPO_TEST_PYTHON")
	}
	program, err := os.Executable()
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.Symlink(program, filepath.Join(dir, "srpo"))) // TestMain runs srpo under this name
	cmd := exec.Command(python, filepath.Join(source, "examples", "score-attempts", "score.py"))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PYTHONPATH="+filepath.Join(source, "sdk", "python"),
		"SRPO_PROGRAM="+filepath.Join(dir, "srpo"), "SRPO_CACHE="+filepath.Join(dir, "cache"),
		"PYTHONDONTWRITEBYTECODE=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	require.Regexp(t, `(?m)^success 0 +reward 1\.00  distance`, string(out))
	require.Regexp(
		t,
		`(?s)failure at 20% +reward 0\.1.*failure at 50% +reward 0\.4.*`+
			`failure at 80% +reward 0\.6.*no label +reward 0\.[67].*AUROC 1\.00`,
		string(out),
	)
}
