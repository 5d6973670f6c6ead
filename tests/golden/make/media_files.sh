#!/bin/sh
# Small video files of every kind the tests need, and what ffmpeg makes of them: per frame the mean RGB of a 4x4 grid.
# Usage: media_files.sh OUT_FOLDER   (needs ffmpeg with libx264, and python3 with NumPy and Pillow 13 as PYTHON)
#
# Every clip shows the same picture: four bands of colour that slide sideways, and a block whose brightness is the number
# of the frame. Nothing here is needed to run the tests.
set -eu
out=$1
here=$(dirname "$0")
py=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"

"$py" "$here/media_pictures.py" "$out"

raw() { # width height frames first: raw rgb24 frames on stdout
    "$py" "$here/media_video.py" raw "$@"
}
quiet="ffmpeg -v error -nostdin -y -fflags +bitexact"
x264="-c:v libx264 -pix_fmt yuv420p -flags:v +bitexact -map_metadata -1 -fflags +bitexact -threads 1 -x264-params"
from() { # width height rate
    echo "-f rawvideo -pix_fmt rgb24 -video_size ${1}x${2} -framerate $3 -i -"
}
encode() { # name width height frames rate x264-params [more options]
    name=$1 w=$2 h=$3 n=$4 rate=$5 params=$6
    shift 6
    raw "$w" "$h" "$n" 0 | ffmpeg -v error -y $(from "$w" "$h" "$rate") $x264 "$params:scenecut=0" -crf 12 "$@" "$out/$name"
}

# H.264 in MP4.
encode baseline.mp4 64 48 12 25 keyint=6:bframes=0 -profile:v baseline -movflags +faststart
encode high_b.mp4 64 48 24 25 keyint=12:bframes=3:b-pyramid=2:ref=4:weightp=2:slices=2 -profile:v high
encode main_b.mp4 64 48 12 30000/1001 keyint=30:bframes=2:cabac=1:weightb=1 -profile:v main
encode cropped.mp4 58 38 8 25 keyint=30:bframes=2
encode bt709.mp4 64 48 6 25 keyint=30:colormatrix=bt709:colorprim=bt709:transfer=bt709 -vf scale=out_color_matrix=bt709
encode full_range.mp4 64 48 6 25 keyint=30:fullrange=on -vf scale=out_range=full -color_range pc
encode fragments.mp4 64 48 12 25 keyint=4:bframes=2 -movflags +frag_keyframe+empty_moov+default_base_moof
encode open_gop.mp4 64 48 24 25 keyint=8:bframes=3:open-gop=1
encode moving.mov 64 48 8 25 keyint=30:bframes=2 -f mov
encode one_frame.mp4 64 48 1 25 keyint=30
# Irregular times: frames 0 to 5 in steps of 40 ms, then a second's pause, then 6 to 11.
encode vfr.mp4 64 48 12 25 keyint=30:bframes=2 -vf "setpts='(N+if(gt(N,5),25,0))/25/TB'" -fps_mode vfr -enc_time_base 1:1000
# Rotations stored in the header.
for turn in 90 180 270; do
    $quiet -display_rotation "$turn" -i "$out/baseline.mp4" -c copy "$out/rotated_$turn.mp4" 2>/dev/null ||
        $quiet -i "$out/baseline.mp4" -c copy -map_metadata -1 -metadata:s:v rotate="$turn" "$out/rotated_$turn.mp4"
done
# A part cut out without encoding again: starts in the middle of a group, the edit list hides what is before.
$quiet -ss 0.6 -i "$out/high_b.mp4" -t 0.2 -c copy -map_metadata -1 "$out/edited.mp4"
# Another size in mid-stream.
raw 64 48 6 0 | ffmpeg -v error -y $(from 64 48 25) $x264 keyint=30:bframes=0:scenecut=0 -crf 12 -f h264 "$work/a.h264"
raw 96 64 6 6 | ffmpeg -v error -y $(from 96 64 25) $x264 keyint=30:bframes=0:scenecut=0 -crf 12 -f h264 "$work/b.h264"
cat "$work/a.h264" "$work/b.h264" > "$work/ab.h264"
$quiet -framerate 25 -f h264 -i "$work/ab.h264" -c copy "$out/two_sizes.mp4"
# What the built-in decoder does not do.
encode ten_bit.mp4 64 48 4 25 keyint=30 -pix_fmt yuv420p10le
encode four_four_four.mp4 64 48 4 25 keyint=30 -pix_fmt yuv444p
encode interlaced.mp4 64 48 4 25 keyint=30:tff=1 -flags +ilme+ildct
raw 64 48 4 0 | ffmpeg -v error -y $(from 64 48 25) -c:v libx265 -x265-params log-level=none -pix_fmt yuv420p -tag:v hvc1 -map_metadata -1 "$out/hevc.mp4"
raw 64 48 8 0 | ffmpeg -v error -y $(from 64 48 25) -c:v libvpx-vp9 -crf 10 -b:v 0 -threads 1 -pix_fmt yuv420p -map_metadata -1 -fflags +bitexact "$out/vp9.webm"
ffmpeg -v error -y -f lavfi -i sine=frequency=440:duration=0.2:sample_rate=8000 -c:a aac -map_metadata -1 "$out/audio_only.mp4"
# A playlist and a script of files, which nobody should follow.
printf '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nbaseline.mp4\n#EXT-X-ENDLIST\n' > "$out/playlist.m3u8"
printf "ffconcat version 1.0\nfile baseline.mp4\n" > "$out/concat.ffconcat"

# Plain formats.
for format in yuv420p yuv422p yuv444p gray; do
    raw 34 26 3 0 | ffmpeg -v error -y $(from 34 26 25) -pix_fmt "$format" -f yuv4mpegpipe "$out/$format.y4m"
done
raw 40 30 6 0 | ffmpeg -v error -y $(from 40 30 10) -vf "split[a][b];[a]palettegen=64[p];[b][p]paletteuse=dither=none" -fflags +bitexact -map_metadata -1 "$out/moving.gif"

"$py" "$here/media_video.py" expect "$out"
du -sb "$out"
