package supervise

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOutput(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	o := newOutput(path)
	w := &lines{to: o, source: "err"}
	for _, part := range []string{"half a li", "ne\n\n10%\r50%\r100% done\n", "\x1b[31mred\x1b[0m\n", "no end"} {
		n, err := w.Write([]byte(part))
		require.NoError(t, err)
		require.Equal(t, len(part), n)
	}
	w.flush()
	o.line("err", `{"@level":"debug","@message":"plugin address"}`)
	o.line("err", `{"@level":"error","@message":"serving","error":"no socket"}`)
	o.line("err", `{"not": "a log line"}`)
	require.Equal(
		t,
		"half a line\n100% done\n[31mred[0m\nno end\nserving: no socket\n{\"not\": \"a log line\"}",
		o.last(recentLines),
	)
	require.Equal(t, "{\"not\": \"a log line\"}", o.last(1))

	long := strings.Repeat("x", 3*maxLine+10) // a line without an end is cut, and nothing is lost
	_, err := w.Write([]byte(long + "\n"))
	require.NoError(t, err)
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, len(long), strings.Count(string(data), "x"))
	require.LessOrEqual(t, len(o.last(1)), recentWidth+3)

	for range 2*maxLog/maxLine + 10 {
		o.line("err", long[:maxLine])
	}
	o.close()
	o.line("err", "after the end")
	require.Contains(t, o.last(1), "after the end")
	now, err := os.Stat(path)
	require.NoError(t, err)
	old, err := os.Stat(path + ".1")
	require.NoError(t, err)
	require.LessOrEqual(t, now.Size(), int64(maxLog+2*maxLine))
	require.LessOrEqual(t, old.Size(), int64(maxLog+2*maxLine))
}

// The reason of a crash of a Go program comes before the stacks of all goroutines, which are longer than
// the last lines.
func TestOutputOfACrash(t *testing.T) {
	stacks := "goroutine 7 [running]:\n" + strings.Repeat(
		"main.embed(0x1)\n\t/src/main.go:462 +0xce\n",
		30,
	) + "created by main.main in goroutine 1\n"
	o := newOutput(filepath.Join(t.TempDir(), "x.log"))
	defer o.close()
	w := &lines{to: o, source: "err"}
	_, err := w.Write(
		[]byte(
			"loading\nruntime: out of memory: cannot allocate 4194304-byte block (0 in use)\nfatal error: out of " +
				"memory\n\n" + stacks,
		),
	)
	require.NoError(t, err)
	require.Equal(
		t,
		"runtime: out of memory: cannot allocate 4194304-byte block (0 in use)\nfatal error: out of memory",
		o.last(2),
	)
	require.Len(t, strings.Split(o.last(20), "\n"), crashLines)
	require.True(t, o.outOfMemory())

	alive := newOutput(filepath.Join(t.TempDir(), "x.log")) // the word alone is not a crash
	defer alive.close()
	for _, line := range []string{"panic: the button was pressed", "going on", "bye"} {
		alive.line("err", line)
	}
	require.Equal(t, "bye", alive.last(1))
	require.False(t, alive.outOfMemory())
}

func TestOutputWithoutALog(t *testing.T) {
	o := newOutput("/nonexistent/x.log")
	o.line("err", "still kept")
	require.Equal(t, "still kept", o.last(5))
	o.close()
}

func TestAllowed(t *testing.T) {
	for name, want := range map[string]bool{"PATH": true, "LC_TIME": true, "LC": false, "NVIDIA_DRIVER": true,
		"AWS_SECRET_ACCESS_KEY": false, "PATHX": false, "HTTPS_PROXY": false} {
		require.Equal(t, want, allowed(name, EnvAllow), name)
	}
	require.False(t, allowed("ANYTHING", []string{"*"}), "a star alone would allow everything")
}

func TestFileName(t *testing.T) {
	require.Equal(t, "libero-plus", fileName("libero-plus"))
	require.Equal(t, "a_b", fileName("../x/a b"))
}
