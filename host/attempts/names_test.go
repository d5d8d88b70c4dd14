package attempts

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/text/unicode/norm"
)

// A label finds its video if one of the two names is in another Unicode normalization form, in a labels file, beside
// the video and in a list.
func TestNamesInOtherUnicodeForms(t *testing.T) {
	const name = "Übung é 한글"
	for i, form := range []norm.Form{norm.NFC, norm.NFD} {
		stored, written := form.String(name), norm.NFD.String(name)
		if form == norm.NFD {
			written = norm.NFC.String(name)
		}
		outside := []string{"NFC ", "NFD "}[i]
		dir := folder(t, map[string]string{"labels.csv": "file,success\n" + written + ".npz,1\n" +
			written + "/b,0\n../" + outside + written + "/c.npz,0\n"}, stored+".npz", stored+"/b.npz")
		outside = filepath.Join(filepath.Dir(dir), outside+stored, "c.npz")
		put(t, outside, []byte("x"))
		list, err := Read(t.Context(), dir)
		require.NoError(t, err)
		require.Empty(t, list.Warnings)
		require.Len(t, list.Attempts, 3)
		for i, video := range []string{
			filepath.Join(dir, stored+".npz"), filepath.Join(dir, stored, "b.npz"), outside,
		} {
			require.Equal(t, video, list.Attempts[i].Video)
			require.Empty(t, list.Attempts[i].Problem)
		}

		dir = folder(t, map[string]string{written + ".json": `{"success": true}`}, stored+".npz")
		list, err = Read(t.Context(), dir)
		require.NoError(t, err)
		require.True(t, *list.Attempts[0].Success)

		dir = folder(t, map[string]string{"list.csv": "file,success\n" + written + "/a.npz,1\n"}, stored+"/a.npz")
		list, err = Read(t.Context(), filepath.Join(dir, "list.csv"))
		require.NoError(t, err)
		require.Equal(t, filepath.Join(dir, stored, "a.npz"), list.Attempts[0].Video)
	}
}

// A folder of webp frames is one attempt, and a folder of webp animations several.
func TestFoldersOfWebP(t *testing.T) {
	still := "RIFF\x20\x00\x00\x00WEBPVP8L\x14\x00\x00\x00\x2f"
	animated := "RIFF\x20\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x02"
	alpha := "RIFF\x20\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x10"
	dir := folder(t, map[string]string{"labels.csv": "file,success\nframes,1\nfilms/a.webp,0\n",
		"frames/1.webp": still, "frames/2.webp": alpha, "films/a.webp": animated, "films/b.webp": still,
		"one/a.webp": still})
	list, err := Read(t.Context(), dir)
	require.NoError(t, err)
	var names []string
	for _, a := range list.Attempts {
		names = append(names, a.ID)
	}
	require.Equal(t, []string{"frames", "films/a.webp", "films/b.webp", "one/a.webp"}, names)
	require.Equal(t, filepath.Join(dir, "frames"), list.Attempts[0].Video)
}

func TestContainersAreVideosByName(t *testing.T) {
	names := []string{"a.ts", "b.M2TS", "c.wmv", "d.flv", "e.3gp", "f.ogv", "g.mpeg", "h.MTS"}
	dir := folder(t, map[string]string{"labels.csv": "file,success\na,1\n"}, names...)
	list, err := Read(t.Context(), dir)
	require.NoError(t, err)
	require.Len(t, list.Attempts, len(names))
}
