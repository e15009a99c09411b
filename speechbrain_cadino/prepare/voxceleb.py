"""VoxCeleb1 and VoxCeleb2, and whatever has their shape, to a manifest."""

from speechbrain_cadino.prepare.folder import prepare_folder


def prepare_voxceleb(
    data_folder, manifest_folder, trials=None, id_parts=3, **options
):
    """Writes the manifest of VoxCeleb, without its labels.

    The files lie as they come off the disk, ``<speaker>/<video>/<utterance>``
    with any suffix and below any folders (``wav``, ``dev/aac``, none). These
    three parts are the ID. The true speakers are written to ``speakers.csv``
    (``ID,spk_id``) beside the manifest: no training opens it that is not told
    to.

    VoxCeleb2 comes as m4a, which soundfile cannot read: give
    ``convert_folder``. Where an utterance is there as wav too, that is taken.

    Arguments
    ---------
    data_folder : str or list of str
        The folder, or the folders if VoxCeleb1 and 2 lie apart; the manifest
        then holds absolute paths.
    manifest_folder : str
        The folder to write to.
    trials : str or list of str, optional
        Trial lists whose speakers are left out of training.
    id_parts : int, optional
        See ``prepare_folder``: None for a folder of another shape, of which
        nothing is known.
    **options
        The other arguments of ``prepare_folder``.

    Example
    -------
    >>> import soundfile
    >>> folder = getfixture("tmp_path")
    >>> for name in ["id1/x/1.wav", "id2/y/1.wav", "id3/z/1.wav"]:
    ...     (folder / "wav" / name).parent.mkdir(parents=True)
    ...     soundfile.write(folder / "wav" / name, [0.1] * 16000, 16000)
    >>> _ = (folder / "trials.txt").write_text("0 id1/x/1.wav id3/z/1.wav")
    >>> prepare_voxceleb(folder, folder / "save", folder / "trials.txt")
    >>> print((folder / "save" / "train.csv").read_text().strip())
    ID,duration,wav,start,stop
    id2/y/1,1.0,$data_root/wav/id2/y/1.wav,0,16000
    >>> print((folder / "save" / "speakers.csv").read_text().strip())
    ID,spk_id
    id2/y/1,id2
    """
    prepare_folder(
        data_folder,
        manifest_folder,
        exclude=trials,
        id_parts=id_parts,
        **options,
    )
