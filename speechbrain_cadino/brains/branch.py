"""Branches of stage II: what a Brain learns from one kind of signal."""

import pathlib

import torch
import torch.nn.functional as F

from speechbrain_cadino.dataio.audio import AudioReader
from speechbrain_cadino.lobes.heads import classify
from speechbrain_cadino.lobes.signal_encoder import SignalEncoder


class Branch(torch.nn.Module):
    """The networks, the loss gate and the places of one signal of utterances.

    Voices alone are one branch, voices and faces are two. In an encoder folder
    it stands for itself: its arguments in the YAML file, from ``sample_rate``
    to ``embedding_model``, are what the folder is made of.

    Arguments
    ---------
    key : str
        The name of its crops in a batch.
    sample_rate : int
        The sample rate, in Hz.
    compute_features, mean_var_norm : torch.nn.Module
        See SignalEncoder.
    embedding_model : torch.nn.Module
        The network from features to embeddings, (batch, 1, D).
    classifier : torch.nn.Module
        The network from embeddings to cosines, (batch, 1, C), such as
        SpeechBrain's of ECAPA-TDNN.
    loss_gate : DynamicLossGate
        The loss gate of this signal.
    manifest : str or pathlib.Path
        The manifest that it is trained on, for the mean embedding.
    data_folder : str or pathlib.Path
        The folder that ``$data_root`` in the manifest stands for.
    folder : str or pathlib.Path
        The folder in which it is told what becomes of the labels.
    encoder_folder : str or pathlib.Path
        The folder that the encoder is exported to.
    classifier_file : str or pathlib.Path
        The file that the classifier is saved to.
    augment : callable, optional
        The augmentation, which changes each crop on its own.
    reader : callable
        The opener of a file: see Embedder.

    Attributes
    ----------
    gate_record : GateRecord
        The record of what becomes of each sample; made with the data loader.
    """

    def __init__(
        self,
        key,
        sample_rate,
        compute_features,
        mean_var_norm,
        embedding_model,
        classifier,
        loss_gate,
        manifest,
        data_folder,
        folder,
        encoder_folder,
        classifier_file,
        augment=None,
        reader=AudioReader,
    ):
        super().__init__()
        self.key = key
        self.sample_rate = sample_rate
        self.compute_features = compute_features
        self.mean_var_norm = mean_var_norm
        self.embedding_model = embedding_model
        self.classifier = classifier
        self.loss_gate = loss_gate
        self.manifest = manifest
        self.data_folder = data_folder
        self.folder = pathlib.Path(folder)
        self.encoder_folder = encoder_folder
        self.classifier_file = classifier_file
        # No part of the networks: its state is neither saved nor shared.
        self.__dict__["augment"] = augment
        self.reader = reader
        self.gate_record = None

    @property
    def network(self):
        """The SignalEncoder."""
        return SignalEncoder(
            self.compute_features, self.mean_var_norm, self.embedding_model
        )

    def forward(self, crops):
        """The cosines of augmented crops to the classes.

        Arguments
        ---------
        crops : torch.Tensor
            Crops, (batch, ...), on the device.

        Returns
        -------
        torch.Tensor
            Cosines, (batch, C).
        """
        feats = self.network.features(crops, self.augment)
        return classify(self.classifier, self.embedding_model(feats))

    def clean(self, crops):
        """As ``forward``, of clean crops: in eval mode, without gradient."""
        training = self.embedding_model.training
        self.embedding_model.eval()
        with torch.no_grad():
            feats = self.network.features(crops)
            cosines = classify(self.classifier, self.embedding_model(feats))
        self.embedding_model.train(training)
        return cosines

    def embed(self, crops):
        """The embeddings of clean crops, each of unit length, in the mode that
        the encoder is in.

        Arguments
        ---------
        crops : torch.Tensor
            Crops, (batch, ...), on the device.

        Returns
        -------
        torch.Tensor
            Embeddings, (batch, D).
        """
        feats = self.network.features(crops)
        return F.normalize(self.embedding_model(feats).float().squeeze(1))
